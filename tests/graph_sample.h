/* Plans made by hand, for tests of devices: value 0 is the input, the last value the logits; weights are
 * random.
 *
 *     graph g;
 *     start_graph(&g, 3, 5, 7, 4);
 *     add_linear(&g, add_conv(&g, 0, 16, 3, 2, 1), 8, 0);
 *     ... g.plan ...
 *     free_weights(&g); */
#ifndef NOC_TESTS_GRAPH_SAMPLE_H
#define NOC_TESTS_GRAPH_SAMPLE_H

#include "engine/plan.h"

enum { GRAPH_VALUES = 16, GRAPH_OPS = 16 };

typedef struct graph {
    noc_plan plan;
    noc_value values[GRAPH_VALUES];
    noc_op ops[GRAPH_OPS];
    bool has_steps;               /* ops are expected to be computed together: */
    bool last_of_step[GRAPH_OPS]; /* up to this one; */
    bool f16_steps;               /* but only where what lies between them is f16 */
} graph;

/* In [-1, 1); the sequence starts anew with each graph and scene. */
double uniform(void);
void seed_uniform(uint64_t seed);

void start_graph(graph *g, int d, int h, int w, int channels);
/* Each returns the new value. */
int add_value(graph *g, int d, int h, int w, int channels);
int add_linear(graph *g, int input, int columns, int tail);
int add_conv(graph *g, int input, int columns, int kernel, int stride, int padding);
int add_like(graph *g, noc_op_kind kind, int input); /* an op whose output has the input's shape */

noc_op *add_op(graph *g, noc_op_kind kind, int input, int output);
noc_weights weights_of(size_t count, double scale);
/* The first of the columns of each head becomes a constant, with a sign for each head. */
void make_constant(noc_op *op, int heads, int dim, double value, double sign);
void free_weights(graph *g);

size_t value_count(const noc_value *v);
/* Largest difference of planar logits to the token matrix `expected`, over the largest expected value. */
double error_of(const graph *g, const float *out, const double *expected);

#endif
