#include "worker/plausibility.h"

#include "worker/components.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { FINDING_TEXT = 192 }; /* a name and three numbers */

/* As long as there is room for the note that there are more. */
static void add_finding(char suspect[NOC_SUSPECT_TEXT], const char *finding)
{
    static const char more[] = "; ...";
    size_t used = strlen(suspect), length = strlen(finding) + 2;

    if (used + length + sizeof more <= NOC_SUSPECT_TEXT)
        snprintf(suspect + used, NOC_SUSPECT_TEXT - used, "%s%s", used > 0 ? "; " : "", finding);
    else if (strcmp(suspect + used - (sizeof more - 1), more) != 0)
        memcpy(suspect + used, more, sizeof more);
}

static void check_volume(const noc_rule *rule, const noc_metric *m, char suspect[NOC_SUSPECT_TEXT])
{
    char finding[FINDING_TEXT];

    if (m->prediction_ml >= rule->volume_ml[0] && m->prediction_ml <= rule->volume_ml[1])
        return;
    snprintf(finding, sizeof finding, "%s: %g ml, expected %g to %g", m->name, m->prediction_ml,
             rule->volume_ml[0], rule->volume_ml[1]);
    add_finding(suspect, finding);
}

static void check_presence(const noc_rule *rule, const noc_metric *m, char suspect[NOC_SUSPECT_TEXT])
{
    char finding[FINDING_TEXT];
    bool is_present = m->prediction_ml > 0;

    if (rule->presence == NOC_PRESENCE_ANY || (rule->presence == NOC_PRESENCE_YES) == is_present)
        return;
    snprintf(finding, sizeof finding, "%s: %s, expected %s", m->name, is_present ? "present" : "absent",
             is_present ? "absent" : "present");
    add_finding(suspect, finding);
}

static noc_status check_components(const noc_manifest *manifest, const noc_rule *rule, const noc_metric *m,
                                   noc_outcome *o, noc_error *err)
{
    char finding[FINDING_TEXT];
    int64_t count = 0;
    bool is_region = manifest->output == NOC_OUTPUT_REGIONS;
    uint32_t wanted = is_region ? UINT32_C(1) << rule->class : (uint32_t)manifest->labels[rule->class].index;

    if (!rule->has_components)
        return NOC_OK;
    noc_status status =
        noc_components_count(is_region ? o->regions : o->mask, is_region ? o->region_bytes : o->mask_bytes,
                             o->grid.size, is_region ? wanted : UINT32_MAX, wanted, &count, err);
    if (status != NOC_OK || (count >= rule->components[0] && count <= rule->components[1]))
        return status;
    snprintf(finding, sizeof finding, "%s: %" PRId64 " component%s, expected %d to %d", m->name, count,
             count == 1 ? "" : "s", rule->components[0], rule->components[1]);
    add_finding(o->suspect, finding);
    return NOC_OK;
}

noc_status noc_plausibility_check(const noc_manifest *manifest, noc_outcome *outcome, noc_error *err)
{
    noc_status status = NOC_OK;

    outcome->suspect[0] = '\0';
    for (int i = 0; status == NOC_OK && i < manifest->rule_count; i++) {
        const noc_rule *rule = &manifest->rules[i];
        const noc_metric *m = &outcome->metrics[rule->class];
        check_volume(rule, m, outcome->suspect);
        check_presence(rule, m, outcome->suspect);
        status = check_components(manifest, rule, m, outcome, err);
    }
    return status;
}

size_t noc_plausibility_bytes(const noc_manifest *manifest, const int64_t size[3])
{
    for (int i = 0; i < manifest->rule_count; i++)
        if (manifest->rules[i].has_components)
            return noc_components_bytes(size);
    return 0;
}
