/* What the half precision kernels of the CUDA device share with their callers. Every launch function takes
 * device pointers, 16-byte aligned, to row-major tensors of `type`; biases, scales and shifts are f32. It
 * enqueues on `stream` and returns cudaErrorInvalidValue, with nothing enqueued, for a shape that its _fits
 * refuses. Sums are f32 in one fixed order, so no bit of a window depends on the others of its batch. */
#ifndef NOC_CUDA_FUSED_H
#define NOC_CUDA_FUSED_H

#include "engine/cuda/kernels.h"

#include <stdbool.h>

#endif
