/* Where a window's time goes: each step of a network beside what the device can do at most. */
#ifndef NOC_PROFILE_H
#define NOC_PROFILE_H

#include "engine/base/text.h"
#include "engine/device.h"

/* Ops [first, last] of the plan, which the device computes together. */
typedef struct noc_profile_step {
    int first, last;
    double seconds;     /* of one window */
    uint64_t macs;      /* of all its ops */
    double flop, bytes; /* flop: 2 macs; bytes: values that come in or go out, and weights, once each */
    double arithmetic_s, transfer_s; /* the least seconds that FLOP alone and bytes alone would take */
    double share;                    /* the larger of them over `seconds`: 1 is the limit */
} noc_profile_step;

typedef struct noc_profile {
    noc_device_limits limits;
    noc_profile_step *steps;
    int step_count;
    double seconds; /* of all steps */
    double rest_s;  /* of a window outside of the steps: input, copies, logits at full size */
} noc_profile;

/* op_seconds[plan->op_count]: of one window, 0 for an op that is computed as a part of a later one.
 * window_s: of one window, all in all. factor_bytes: of a weight of a product. Free by noc_profile_free. */
noc_status noc_profile_make(const noc_plan *plan, int factor_bytes, const noc_device_limits *limits,
                            const double *op_seconds, double window_s, noc_profile **profile, noc_error *err);
void noc_profile_free(noc_profile *profile);

/* A table. */
void noc_profile_add_table(const noc_profile *profile, const noc_plan *plan, noc_text *text);
/* Members of a JSON object: "limits", "steps", "rest_seconds". */
void noc_profile_add_json(const noc_profile *profile, const noc_plan *plan, noc_text *text);

#endif
