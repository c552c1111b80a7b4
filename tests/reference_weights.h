/* Random weights for a network configuration, written as the state dict it needs. */
#ifndef NOC_TESTS_REFERENCE_WEIGHTS_H
#define NOC_TESTS_REFERENCE_WEIGHTS_H

#include "engine/manifest.h"
#include "engine/plan.h"

#include <stdint.h>

/* The next number of a fixed sequence, in [-1, 1). */
double reference_random(uint64_t *state);

/* absent: bits 1 << noc_tensor_group of the groups that are left out; prefix before every name ("" or
 * "module."). Doubles; products keep the scale of their input, norms lie around 1, variances between 0.5
 * and 1.5. */
noc_status reference_weights_write(const char *path, const noc_network_config *network, unsigned absent,
                                   const char *prefix, uint64_t seed, noc_error *err);

/* The network with such weights, all rewrites applied and arranged. */
noc_status reference_network_plan(const noc_network_config *network, const int64_t window[3],
                                  bool keep_stages, uint64_t seed, noc_plan **plan, noc_error *err);

#endif
