/* nocturne plan: the op list of one window, with shapes, multiply-adds and bytes. */
#include "engine/model.h"
#include "pipeline/command.h"
#include "pipeline/opening.h"

#include <stdio.h>

/* As the devices hold them: f32. */
static uint64_t weight_bytes(const noc_op *op)
{
    return (op->weight.data ? op->weight.count * 4 : 0) + (op->bias.data ? op->bias.count * 4 : 0);
}

static uint64_t output_bytes(const noc_value *value)
{
    return (uint64_t)value->grid[0] * (uint64_t)value->grid[1] * (uint64_t)value->grid[2] *
           (uint64_t)value->channels * 4;
}

static void add_op_line(noc_text *text, const noc_plan *plan, int i)
{
    const noc_op *op = &plan->ops[i];
    const noc_value *out = &plan->values[op->output];
    char shape[64];

    snprintf(shape, sizeof shape, "%dx%dx%dx%d", out->grid[0], out->grid[1], out->grid[2], out->channels);
    noc_text_add(text, "%4d  %-10s %-28s %-20s %9.4f %12llu %12llu ", i, noc_op_name(op->kind), out->name,
                 shape, (double)noc_op_macs(plan, op) / 1e9, (unsigned long long)weight_bytes(op),
                 (unsigned long long)output_bytes(out));
    for (int n = 0; n < op->input_count; n++)
        noc_text_add(text, " %s", plan->values[op->input[n]].name);
    if (op->residual >= 0)
        noc_text_add(text, " +%s", plan->values[op->residual].name);
    noc_text_add(text, "\n");
}

static void add_table(noc_text *text, const noc_model *model, const noc_plan *plan)
{
    noc_plan_stats stats;
    const noc_value *in = &plan->values[0], *out = &plan->values[plan->logits];

    noc_plan_stats_of(plan, &stats);
    noc_text_add(text, "%s: %s, window %dx%dx%d, %d channels, %llu parameters\n", model->manifest->name,
                 plan->family, in->grid[0], in->grid[1], in->grid[2], in->channels,
                 (unsigned long long)model->parameters);
    noc_text_add(text, "%4s  %-10s %-28s %-20s %9s %12s %12s  inputs\n", "", "op", "output",
                 "shape (D,H,W,C)", "GMAC", "weight B", "output B");
    for (int i = 0; i < plan->op_count; i++)
        add_op_line(text, plan, i);
    noc_text_add(text, "logits %dx%dx%dx%d, upsampled by %dx%dx%d\n", out->grid[0], out->grid[1],
                 out->grid[2], out->channels, plan->upsample[0], plan->upsample[1], plan->upsample[2]);
    noc_text_add(text, "total: %d ops, %.4f GMAC, weights %llu bytes, arena %zu bytes\n", plan->op_count,
                 (double)stats.macs / 1e9, (unsigned long long)stats.weight_bytes, stats.arena_bytes);
    if (noc_model_views(model) > 1)
        noc_text_add(text, "a window is %d passes, the mean of %d networks and their flips: %.4f GMAC\n",
                     noc_model_views(model), model->manifest->fold_count,
                     (double)stats.macs * noc_model_views(model) / 1e9);
}

static void add_op_json(noc_text *text, const noc_plan *plan, int i)
{
    const noc_op *op = &plan->ops[i];
    const noc_value *out = &plan->values[op->output];

    noc_text_add(text, "%s\n{\"op\":\"%s\",\"output\":", i > 0 ? "," : "", noc_op_name(op->kind));
    noc_text_add_json(text, out->name);
    noc_text_add(text, ",\"shape\":[%d,%d,%d,%d],\"inputs\":[", out->grid[0], out->grid[1], out->grid[2],
                 out->channels);
    for (int n = 0; n < op->input_count; n++) {
        noc_text_add(text, "%s", n > 0 ? "," : "");
        noc_text_add_json(text, plan->values[op->input[n]].name);
    }
    noc_text_add(text, "],\"residual\":");
    noc_text_add_json(text, op->residual >= 0 ? plan->values[op->residual].name : NULL);
    noc_text_add(text, ",\"macs\":%llu,\"weight_bytes\":%llu,\"output_bytes\":%llu}",
                 (unsigned long long)noc_op_macs(plan, op), (unsigned long long)weight_bytes(op),
                 (unsigned long long)output_bytes(out));
}

static void add_json(noc_text *text, const noc_model *model, const noc_plan *plan)
{
    noc_plan_stats stats;
    const noc_value *in = &plan->values[0], *out = &plan->values[plan->logits];

    noc_plan_stats_of(plan, &stats);
    noc_text_add(text, "{\"model\":");
    noc_text_add_json(text, model->manifest->name);
    noc_text_add(text, ",\"model_sha256\":\"%s\",\"family\":\"%s\",\"parameters\":%llu,", model->sha256,
                 plan->family, (unsigned long long)model->parameters);
    noc_text_add(text, "\"window\":[%d,%d,%d],\"channels\":%d,", in->grid[0], in->grid[1], in->grid[2],
                 in->channels);
    noc_text_add(text, "\"logits\":[%d,%d,%d,%d],\"upsample\":[%d,%d,%d],", out->grid[0], out->grid[1],
                 out->grid[2], out->channels, plan->upsample[0], plan->upsample[1], plan->upsample[2]);
    noc_text_add(text, "\"views\":%d,\"window_gmac\":%.6f,", noc_model_views(model),
                 (double)stats.macs * noc_model_views(model) / 1e9);
    noc_text_add(text, "\"macs\":%llu,\"gmac\":%.6f,\"weight_bytes\":%llu,\"arena_bytes\":%zu,\"ops\":[",
                 (unsigned long long)stats.macs, (double)stats.macs / 1e9,
                 (unsigned long long)stats.weight_bytes, stats.arena_bytes);
    for (int i = 0; i < plan->op_count; i++)
        add_op_json(text, plan, i);
    noc_text_add(text, "\n]}\n");
}

static noc_status print_plan(const noc_settings *settings, noc_error *err)
{
    noc_model *model = NULL;
    noc_plan *plan = NULL;
    noc_text text = {0};
    noc_status status = noc_opening_model(settings, &model, err);

    if (status == NOC_OK)
        status =
            noc_model_plan(model, 0, settings->window[0] > 0 ? settings->window : model->manifest->window,
                           NOC_REWRITE_ALL, false, &plan, err);
    if (status == NOC_OK) {
        if (settings->json)
            add_json(&text, model, plan);
        else
            add_table(&text, model, plan);
        status = noc_opening_print(&text, err);
    }
    noc_text_free(&text);
    noc_plan_free(plan);
    noc_model_free(model);
    return status;
}

int noc_command_plan(const noc_settings *settings)
{
    noc_error err;

    return print_plan(settings, &err) == NOC_OK ? 0 : noc_command_fail(&err);
}
