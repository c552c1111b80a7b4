#include "engine/window.h"

#include "engine/base/memory.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#define SIGMA_SCALE 0.125 /* sliding_window_inference's default */

/* dense_patch_slices: starts 0, interval, ... up to and including the first window that reaches the end. */
static int64_t count_axis(int64_t padded, int64_t window, int64_t interval)
{
    return (padded - window + interval - 1) / interval + 1;
}

noc_status noc_windows_plan(const int64_t size[3], const int64_t window[3], double overlap,
                            noc_windows *windows, noc_error *err)
{
    noc_windows w;
    double total = 1;
    if (!(overlap >= 0 && overlap < 1))
        return noc_fail(err, NOC_ECONFIG, "an overlap of %g is not in [0, 1)", overlap);
    for (int a = 0; a < 3; a++) {
        if (window[a] < 1 || size[a] < 1)
            return noc_fail(err, NOC_ECONFIG, "a window of %lld voxels over an axis of %lld",
                            (long long)window[a], (long long)size[a]);
        w.size[a] = size[a];
        w.window[a] = window[a];
        w.padded[a] = size[a] > window[a] ? size[a] : window[a];
        w.pad_low[a] = (w.padded[a] - size[a]) / 2;
        /* _get_scan_interval: the product in double, truncated */
        int64_t step = (int64_t)((double)window[a] * (1 - overlap));
        w.interval[a] = w.padded[a] == window[a] ? window[a] : step > 0 ? step : 1;
        int64_t count = count_axis(w.padded[a], window[a], w.interval[a]);
        total *= (double)count;
        if (total > INT_MAX)
            return noc_fail(err, NOC_ETOOLARGE, "more than 2^31 windows");
        w.count[a] = (int)count;
    }
    *windows = w;
    return NOC_OK;
}

int64_t noc_windows_total(const noc_windows *windows)
{
    return (int64_t)windows->count[0] * windows->count[1] * windows->count[2];
}

int64_t noc_windows_start(const noc_windows *windows, int axis, int i)
{
    int64_t start = i * windows->interval[axis], last = windows->padded[axis] - windows->window[axis];
    return start < last ? start : last;
}

void noc_windows_at(const noc_windows *windows, int64_t n, int64_t start[3])
{
    for (int a = 2; a >= 0; a--) {
        start[a] = noc_windows_start(windows, a, (int)(n % windows->count[a]));
        n /= windows->count[a];
    }
}

/* exp(-x^2 / (2 s^2)) about the window's centre, s an eighth of the window, in f32 as the reference has it.
 */
static float gaussian(int64_t i, int64_t window)
{
    float x = (float)i - (float)(window - 1) / 2, s = (float)(SIGMA_SCALE * (double)window);
    return expf(x * x / (-2 * s * s));
}

noc_status noc_importance_create(const int64_t window[3], noc_blend blend, float **map, noc_error *err)
{
    size_t count = (size_t)window[0] * (size_t)window[1] * (size_t)window[2], at = 0;
    if (blend == NOC_BLEND_CONSTANT) {
        *map = NULL;
        return NOC_OK;
    }
    float *out = noc_alloc(count, sizeof *out, err), least = INFINITY;
    if (!out)
        return NOC_ENOMEMORY;
    for (int64_t d = 0; d < window[0]; d++)
        for (int64_t h = 0; h < window[1]; h++) {
            float plane = gaussian(d, window[0]) * gaussian(h, window[1]);
            for (int64_t w = 0; w < window[2]; w++, at++) {
                out[at] = plane * gaussian(w, window[2]);
                least = fminf(least, out[at]);
            }
        }
    /* voxels at the rim must keep a weight */
    float floor_value = fmaxf(least, 1e-3f);
    for (size_t i = 0; i < count; i++)
        out[i] = fmaxf(out[i], floor_value);
    *map = out;
    return NOC_OK;
}
