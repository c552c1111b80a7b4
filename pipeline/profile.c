#include "pipeline/profile.h"

#include "engine/base/memory.h"

#include <stdio.h>
#include <stdlib.h>

static bool is_product(const noc_op *op)
{
    return op->kind == NOC_OP_CONV || op->kind == NOC_OP_LINEAR || op->kind == NOC_OP_ATTENTION;
}

static double value_bytes(const noc_value *v)
{
    return 4.0 * v->grid[0] * v->grid[1] * v->grid[2] * v->channels;
}

/* A value counts once, unless nobody but the step knows it. */
static double values_moved(const noc_plan *plan, int first, int last)
{
    double bytes = 0;
    for (int v = 0; v < plan->value_count; v++) {
        const noc_value *value = &plan->values[v];
        bool is_made = false, is_read = false;
        for (int i = first; i <= last; i++) {
            is_made |= plan->ops[i].output == v;
            is_read |= noc_op_reads(&plan->ops[i], v);
        }
        if ((is_made && value->last > last) || (is_read && !is_made))
            bytes += value_bytes(value);
    }
    return bytes;
}

static void fill_step(const noc_plan *plan, int factor_bytes, const noc_device_limits *limits,
                      noc_profile_step *step)
{
    step->bytes = values_moved(plan, step->first, step->last);
    for (int i = step->first; i <= step->last; i++) {
        const noc_op *op = &plan->ops[i];
        uint64_t macs = noc_op_macs(plan, op);
        step->macs += macs;
        step->arithmetic_s +=
            2.0 * (double)macs / (is_product(op) ? limits->product_flops : limits->vector_flops);
        step->bytes +=
            (double)op->weight.count * (is_product(op) ? factor_bytes : 4) + (double)op->bias.count * 4;
    }
    step->flop = 2.0 * (double)step->macs;
    step->transfer_s = step->bytes / limits->bytes_per_second;
    double least = step->arithmetic_s > step->transfer_s ? step->arithmetic_s : step->transfer_s;
    step->share = least / step->seconds;
}

noc_status noc_profile_make(const noc_plan *plan, int factor_bytes, const noc_device_limits *limits,
                            const double *op_seconds, double window_s, noc_profile **profile, noc_error *err)
{
    noc_profile *made = noc_alloc_zeroed(1, sizeof *made, err);
    if (made)
        made->steps = noc_alloc_zeroed((size_t)plan->op_count, sizeof *made->steps, err);
    if (!made || !made->steps) {
        free(made);
        return NOC_ENOMEMORY;
    }
    made->limits = *limits;
    for (int i = 0, first = 0; i < plan->op_count; i++) {
        if (op_seconds[i] <= 0)
            continue;
        noc_profile_step *step = &made->steps[made->step_count++];
        *step = (noc_profile_step){.first = first, .last = i, .seconds = op_seconds[i]};
        fill_step(plan, factor_bytes, limits, step);
        made->seconds += step->seconds;
        first = i + 1;
    }
    made->rest_s = window_s - made->seconds;
    *profile = made;
    return NOC_OK;
}

void noc_profile_free(noc_profile *profile)
{
    if (!profile)
        return;
    free(profile->steps);
    free(profile);
}

/* ---- for people ---- */

static void add_row(const noc_profile_step *step, const noc_plan *plan, noc_text *text)
{
    const noc_value *out = &plan->values[plan->ops[step->last].output];
    char shape[64];
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", out->grid[0], out->grid[1], out->grid[2], out->channels);
    noc_text_add(text, "%-24s %-16s %9.3f %8.0f %7.1f %5.0f %% %-5s ", out->name, shape, step->seconds * 1e3,
                 1e-9 * step->flop / step->seconds, 1e-9 * step->bytes / step->seconds, 100 * step->share,
                 step->arithmetic_s > step->transfer_s ? "flop" : "bytes");
    for (int i = step->first; i <= step->last; i++)
        noc_text_add(text, " %s", noc_op_name(plan->ops[i].kind));
    noc_text_add(text, "\n");
}

void noc_profile_add_table(const noc_profile *profile, const noc_plan *plan, noc_text *text)
{
    const noc_device_limits *l = &profile->limits;
    noc_text_add(text,
                 "limits measured: products %.0f GFLOP/s, other arithmetic %.0f GFLOP/s, copy %.1f GB/s\n",
                 1e-9 * l->product_flops, 1e-9 * l->vector_flops, 1e-9 * l->bytes_per_second);
    noc_text_add(text, "%-24s %-16s %9s %8s %7s %7s %-5s  %s\n", "step", "output", "ms", "GFLOP/s", "GB/s",
                 "limit", "of", "ops");
    for (int i = 0; i < profile->step_count; i++)
        add_row(&profile->steps[i], plan, text);
    noc_text_add(text, "%-24s %-16s %9.3f\n", "all steps", "", profile->seconds * 1e3);
    noc_text_add(text, "%-24s %-16s %9.3f\n", "copies, full-size logits", "", profile->rest_s * 1e3);
}

/* ---- for programs ---- */

static void add_json_step(const noc_profile_step *step, const noc_plan *plan, noc_text *text)
{
    const noc_value *out = &plan->values[plan->ops[step->last].output];
    noc_text_add(text, "{\"ops\":[");
    for (int i = step->first; i <= step->last; i++)
        noc_text_add(text, "%s\"%s\"", i > step->first ? "," : "", noc_op_name(plan->ops[i].kind));
    noc_text_add(text, "],\"output\":");
    noc_text_add_json(text, out->name);
    noc_text_add(
        text,
        ",\"shape\":[%d,%d,%d,%d],\"seconds\":%.6g,\"macs\":%llu,\"bytes\":%.0f,"
        "\"flop_per_second\":%.6g,\"bytes_per_second\":%.6g,\"share_of_limit\":%.6g,\"limit\":\"%s\"}",
        out->grid[0], out->grid[1], out->grid[2], out->channels, step->seconds,
        (unsigned long long)step->macs, step->bytes, step->flop / step->seconds, step->bytes / step->seconds,
        step->share, step->arithmetic_s > step->transfer_s ? "flop" : "bytes");
}

void noc_profile_add_json(const noc_profile *profile, const noc_plan *plan, noc_text *text)
{
    const noc_device_limits *l = &profile->limits;
    noc_text_add(text,
                 "\"limits\":{\"product_flop_per_second\":%.6g,\"vector_flop_per_second\":%.6g,"
                 "\"bytes_per_second\":%.6g},\"steps\":[",
                 l->product_flops, l->vector_flops, l->bytes_per_second);
    for (int i = 0; i < profile->step_count; i++) {
        noc_text_add(text, "%s", i > 0 ? "," : "");
        add_json_step(&profile->steps[i], plan, text);
    }
    noc_text_add(text, "],\"rest_seconds\":%.9g", profile->rest_s);
}
