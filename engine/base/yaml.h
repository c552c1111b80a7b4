/* A small checked YAML reader (over libyaml) for manifests and configuration: mappings, sequences, scalars.
 * No anchors, tags or several documents. Every complaint is NOC_ECONFIG and begins with "FILE:LINE: ".
 * Duplicate keys are refused at load.
 *
 *     noc_yaml *doc;  noc_yaml_load("model.yaml", &doc, err);
 *     const noc_yaml_node *root = noc_yaml_root(doc);
 *     noc_yaml_only(doc, root, (const char *const[]){"name", "window", NULL}, err);
 *     noc_yaml_text(doc, noc_yaml_find(root, "name"), &name, err);
 */
#ifndef NOC_BASE_YAML_H
#define NOC_BASE_YAML_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct noc_yaml noc_yaml;
typedef struct noc_yaml_node noc_yaml_node;
typedef enum noc_yaml_kind { NOC_YAML_SCALAR, NOC_YAML_SEQUENCE, NOC_YAML_MAPPING } noc_yaml_kind;

noc_status noc_yaml_load(const char *path, noc_yaml **doc, noc_error *err);
/* The same from memory; name stands for the file in complaints. */
noc_status noc_yaml_parse(const char *name, const char *data, size_t size, noc_yaml **doc, noc_error *err);
void noc_yaml_free(noc_yaml *doc);

/* NULL for an empty document. Nodes belong to the document. */
const noc_yaml_node *noc_yaml_root(const noc_yaml *doc);
noc_yaml_kind noc_yaml_kind_of(const noc_yaml_node *node);
int noc_yaml_line(const noc_yaml_node *node);

/* Value of a key; NULL when the key is absent or node is no mapping (or NULL). */
const noc_yaml_node *noc_yaml_find(const noc_yaml_node *mapping, const char *key);
/* Number of items of a sequence or pairs of a mapping; item i (a mapping's value; its key by noc_yaml_key).
 */
size_t noc_yaml_count(const noc_yaml_node *node);
const noc_yaml_node *noc_yaml_item(const noc_yaml_node *node, size_t i);
const char *noc_yaml_key(const noc_yaml_node *mapping, size_t i);

/* Fails when node is no mapping or holds a key that is not in the NULL-terminated list (the nearest known key
 * is suggested). */
noc_status noc_yaml_only(const noc_yaml *doc, const noc_yaml_node *mapping, const char *const keys[],
                         noc_error *err);
/* Finds a required key. */
noc_status noc_yaml_require(const noc_yaml *doc, const noc_yaml_node *mapping, const char *key,
                            const noc_yaml_node **node, noc_error *err);

/* Scalars of one type; node must not be NULL. Quoted scalars are text only. */
noc_status noc_yaml_text(const noc_yaml *doc, const noc_yaml_node *node, const char **value, noc_error *err);
noc_status noc_yaml_integer(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high,
                            int64_t *value, noc_error *err);
noc_status noc_yaml_number(const noc_yaml *doc, const noc_yaml_node *node, double low, double high,
                           double *value, noc_error *err);
noc_status noc_yaml_boolean(const noc_yaml *doc, const noc_yaml_node *node, bool *value, noc_error *err);
/* A sequence of exactly n integers or numbers. */
noc_status noc_yaml_integers(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high,
                             int64_t *values, size_t n, noc_error *err);
noc_status noc_yaml_numbers(const noc_yaml *doc, const noc_yaml_node *node, double low, double high,
                            double *values, size_t n, noc_error *err);

/* "FILE:LINE: sentence" as NOC_ECONFIG. node may be NULL (no line). */
noc_status noc_yaml_fail(const noc_yaml *doc, const noc_yaml_node *node, noc_error *err, const char *format,
                         ...) __attribute__((format(printf, 4, 5)));

#endif
