/* The YAML reader: libyaml's events become a tree of nodes with line numbers; the checks are made when values are asked for. */
#include "engine/base/yaml.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 32, MAX_NODES = 100000, MAX_BYTES = 16 << 20 };

struct noc_yaml_node {
    noc_yaml_kind kind;
    int line;
    bool is_quoted;
    char *text;                /* of a scalar */
    char **keys;               /* of a mapping */
    noc_yaml_node **items;
    size_t count;
};

struct noc_yaml {
    char *name;
    noc_yaml_node *root;
};

typedef struct reader {
    yaml_parser_t parser;
    noc_yaml *doc;
    size_t nodes;
    noc_error *err;
} reader;

static void node_free(noc_yaml_node *node)
{
    if (!node)
        return;
    for (size_t i = 0; i < node->count; i++) {
        node_free(node->items[i]);
        if (node->keys)
            free(node->keys[i]);
    }
    free(node->items);
    free(node->keys);
    free(node->text);
    free(node);
}

void noc_yaml_free(noc_yaml *doc)
{
    if (!doc)
        return;
    node_free(doc->root);
    free(doc->name);
    free(doc);
}

static noc_status fail_at(const reader *r, int line, const char *what)
{
    return noc_fail(r->err, NOC_ECONFIG, "%s:%d: %s", r->doc->name, line, what);
}

static noc_status next_event(reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return NOC_OK;
    if (r->parser.error == YAML_MEMORY_ERROR)
        return noc_fail(r->err, NOC_ENOMEMORY, "%s: no memory", r->doc->name);
    return fail_at(r, (int)r->parser.problem_mark.line + 1, r->parser.problem ? r->parser.problem : "is no YAML");
}

/* Takes over key and item. */
static noc_status add_item(reader *r, noc_yaml_node *node, char *key, noc_yaml_node *item)
{
    noc_yaml_node **items = realloc(node->items, (node->count + 1) * sizeof *items);
    if (items)
        node->items = items;
    char **keys = items && key ? realloc(node->keys, (node->count + 1) * sizeof *keys) : NULL;
    if (keys)
        node->keys = keys;
    if (!items || (key && !keys)) {
        free(key);
        node_free(item);
        return noc_fail(r->err, NOC_ENOMEMORY, "%s: no memory", r->doc->name);
    }
    node->items[node->count] = item;
    if (key)
        node->keys[node->count] = key;
    node->count++;
    return NOC_OK;
}

static noc_status read_node(reader *r, yaml_event_t *event, int depth, noc_yaml_node **node);

static noc_status read_sequence(reader *r, noc_yaml_node *node, int depth)
{
    for (;;) {
        yaml_event_t event;
        noc_yaml_node *item;
        noc_status status = next_event(r, &event);
        if (status != NOC_OK)
            return status;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return NOC_OK;
        }
        status = read_node(r, &event, depth + 1, &item);
        if (status == NOC_OK)
            status = add_item(r, node, NULL, item);
        if (status != NOC_OK)
            return status;
    }
}

static noc_status read_key(reader *r, const noc_yaml_node *node, const yaml_event_t *event, char **key)
{
    char text[160];
    int line = (int)event->start_mark.line + 1;
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.anchor || event->data.scalar.tag)
        return fail_at(r, line, "a key must be a plain text");
    const char *value = (const char *)event->data.scalar.value;
    for (size_t i = 0; i < node->count; i++)
        if (strcmp(node->keys[i], value) == 0) {
            snprintf(text, sizeof text, "key \"%.60s\" stands twice", value);
            return fail_at(r, line, text);
        }
    *key = noc_strdup(value, r->err);
    return *key ? NOC_OK : NOC_ENOMEMORY;
}

static noc_status read_mapping(reader *r, noc_yaml_node *node, int depth)
{
    for (;;) {
        yaml_event_t event;
        noc_yaml_node *item;
        char *key = NULL;
        noc_status status = next_event(r, &event);
        if (status != NOC_OK)
            return status;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return NOC_OK;
        }
        status = read_key(r, node, &event, &key);
        yaml_event_delete(&event);
        if (status != NOC_OK)
            return status;
        status = next_event(r, &event);
        if (status == NOC_OK)
            status = read_node(r, &event, depth + 1, &item);
        if (status != NOC_OK) {
            free(key);
            return status;
        }
        if ((status = add_item(r, node, key, item)) != NOC_OK)
            return status;
    }
}

static noc_status fill_scalar(reader *r, const yaml_event_t *event, noc_yaml_node *node)
{
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return fail_at(r, node->line, "anchors and tags are not used here");
    if (memchr(event->data.scalar.value, 0, event->data.scalar.length))
        return fail_at(r, node->line, "a text must not hold a zero byte");
    node->is_quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = noc_strdup((const char *)event->data.scalar.value, r->err);
    return node->text ? NOC_OK : NOC_ENOMEMORY;
}

static noc_status fill_node(reader *r, const yaml_event_t *event, int depth, noc_yaml_node *node)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return fill_scalar(r, event, node);
    case YAML_SEQUENCE_START_EVENT:
        node->kind = NOC_YAML_SEQUENCE;
        if (event->data.sequence_start.anchor || event->data.sequence_start.tag)
            return fail_at(r, node->line, "anchors and tags are not used here");
        return read_sequence(r, node, depth);
    case YAML_MAPPING_START_EVENT:
        node->kind = NOC_YAML_MAPPING;
        if (event->data.mapping_start.anchor || event->data.mapping_start.tag)
            return fail_at(r, node->line, "anchors and tags are not used here");
        return read_mapping(r, node, depth);
    default:
        return fail_at(r, node->line, "anchors and tags are not used here");
    }
}

/* Takes over the event. */
static noc_status read_node(reader *r, yaml_event_t *event, int depth, noc_yaml_node **node)
{
    noc_yaml_node *n = calloc(1, sizeof *n);
    noc_status status;
    if (!n)
        status = noc_fail(r->err, NOC_ENOMEMORY, "%s: no memory", r->doc->name);
    else if (depth > MAX_DEPTH || ++r->nodes > MAX_NODES)
        status = fail_at(r, (int)event->start_mark.line + 1, "is nested too deeply or too large");
    else {
        n->line = (int)event->start_mark.line + 1;
        status = fill_node(r, event, depth, n);
    }
    yaml_event_delete(event);
    if (status != NOC_OK) {
        node_free(n);
        return status;
    }
    *node = n;
    return NOC_OK;
}

/* Stream start, at most one document, stream end. */
static noc_status read_stream(reader *r)
{
    bool has_document = false;
    for (;;) {
        yaml_event_t event;
        noc_status status = next_event(r, &event);
        if (status != NOC_OK)
            return status;
        yaml_event_type_t type = event.type;
        int line = (int)event.start_mark.line + 1;
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_END_EVENT || type == YAML_STREAM_END_EVENT) {
            yaml_event_delete(&event);
        } else if (type == YAML_DOCUMENT_START_EVENT) {
            yaml_event_delete(&event);
            if (has_document)
                return fail_at(r, line, "a second document begins here, there must be one");
            has_document = true;
        } else {
            status = read_node(r, &event, 0, &r->doc->root);
            if (status != NOC_OK)
                return status;
        }
        if (type == YAML_STREAM_END_EVENT)
            return NOC_OK;
    }
}

/* An empty document has one empty plain scalar. */
static void drop_empty_root(noc_yaml *doc)
{
    if (doc->root && doc->root->kind == NOC_YAML_SCALAR && !doc->root->is_quoted && doc->root->text[0] == '\0') {
        node_free(doc->root);
        doc->root = NULL;
    }
}

noc_status noc_yaml_parse(const char *name, const char *data, size_t size, noc_yaml **doc, noc_error *err)
{
    reader r = {.err = err};
    noc_yaml *d = calloc(1, sizeof *d);
    if (!d || !(d->name = noc_strdup(name, err)) || !yaml_parser_initialize(&r.parser)) {
        noc_yaml_free(d);
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory", name);
    }
    r.doc = d;
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)data, size);
    noc_status status = read_stream(&r);
    yaml_parser_delete(&r.parser);
    if (status != NOC_OK) {
        noc_yaml_free(d);
        return status;
    }
    drop_empty_root(d);
    *doc = d;
    return NOC_OK;
}

noc_status noc_yaml_load(const char *path, noc_yaml **doc, noc_error *err)
{
    char *data;
    size_t size;
    if (noc_file_read(path, MAX_BYTES, &data, &size, err) != NOC_OK)
        return err ? err->status = NOC_ENOINPUT : NOC_ENOINPUT;
    noc_status status = noc_yaml_parse(path, data, size, doc, err);
    free(data);
    return status;
}

const noc_yaml_node *noc_yaml_root(const noc_yaml *doc)
{
    return doc->root;
}

noc_yaml_kind noc_yaml_kind_of(const noc_yaml_node *node)
{
    return node->kind;
}

int noc_yaml_line(const noc_yaml_node *node)
{
    return node->line;
}

const noc_yaml_node *noc_yaml_find(const noc_yaml_node *mapping, const char *key)
{
    if (!mapping || mapping->kind != NOC_YAML_MAPPING)
        return NULL;
    for (size_t i = 0; i < mapping->count; i++)
        if (strcmp(mapping->keys[i], key) == 0)
            return mapping->items[i];
    return NULL;
}

size_t noc_yaml_count(const noc_yaml_node *node)
{
    return node ? node->count : 0;
}

const noc_yaml_node *noc_yaml_item(const noc_yaml_node *node, size_t i)
{
    return node->items[i];
}

const char *noc_yaml_key(const noc_yaml_node *mapping, size_t i)
{
    return mapping->keys[i];
}

noc_status noc_yaml_fail(const noc_yaml *doc, const noc_yaml_node *node, noc_error *err, const char *format, ...)
{
    char text[NOC_ERROR_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!node)
        return noc_fail(err, NOC_ECONFIG, "%s: %s", doc->name, text);
    return noc_fail(err, NOC_ECONFIG, "%s:%d: %s", doc->name, node->line, text);
}

/* Shared letters at the front, roughly: enough to suggest a key that was mistyped. */
static size_t likeness(const char *a, const char *b)
{
    size_t same = 0;
    while (a[same] && a[same] == b[same])
        same++;
    size_t x = strlen(a), y = strlen(b), tail = 0;
    while (tail < x - same && tail < y - same && a[x - 1 - tail] == b[y - 1 - tail])
        tail++;
    return 2 * (same + tail) > (x > y ? x : y) ? same + tail : 0;
}

static const char *nearest_key(const char *key, const char *const keys[])
{
    const char *best = NULL;
    size_t most = 0;
    for (size_t i = 0; keys[i]; i++) {
        size_t like = likeness(key, keys[i]);
        if (like > most) {
            most = like;
            best = keys[i];
        }
    }
    return best;
}

noc_status noc_yaml_only(const noc_yaml *doc, const noc_yaml_node *mapping, const char *const keys[], noc_error *err)
{
    if (!mapping || mapping->kind != NOC_YAML_MAPPING)
        return noc_yaml_fail(doc, mapping, err, "a mapping (key: value) is wanted here");
    for (size_t i = 0; i < mapping->count; i++) {
        size_t k = 0;
        while (keys[k] && strcmp(keys[k], mapping->keys[i]) != 0)
            k++;
        if (keys[k])
            continue;
        const char *near = nearest_key(mapping->keys[i], keys);
        return noc_yaml_fail(doc, mapping->items[i], err, near ? "unknown key \"%.80s\"; did you mean \"%s\"?" : "unknown key \"%.80s\"%s",
                             mapping->keys[i], near ? near : "");
    }
    return NOC_OK;
}

noc_status noc_yaml_require(const noc_yaml *doc, const noc_yaml_node *mapping, const char *key,
                            const noc_yaml_node **node, noc_error *err)
{
    const noc_yaml_node *found = noc_yaml_find(mapping, key);
    if (!found)
        return noc_yaml_fail(doc, mapping, err, "key \"%s\" is missing", key);
    *node = found;
    return NOC_OK;
}

noc_status noc_yaml_text(const noc_yaml *doc, const noc_yaml_node *node, const char **value, noc_error *err)
{
    if (node->kind != NOC_YAML_SCALAR)
        return noc_yaml_fail(doc, node, err, "a text is wanted here, not a %s",
                             node->kind == NOC_YAML_MAPPING ? "mapping" : "sequence");
    *value = node->text;
    return NOC_OK;
}

noc_status noc_yaml_number(const noc_yaml *doc, const noc_yaml_node *node, double low, double high, double *value,
                           noc_error *err)
{
    char *end = NULL;
    double number = node->kind == NOC_YAML_SCALAR && !node->is_quoted ? strtod(node->text, &end) : 0;
    if (!end || end == node->text || *end != '\0' || !isfinite(number))
        return noc_yaml_fail(doc, node, err, "a number is wanted here%s%.60s", node->text ? ", not " : "",
                             node->text ? node->text : "");
    if (number < low || number > high)
        return noc_yaml_fail(doc, node, err, "%s must lie between %g and %g", node->text, low, high);
    *value = number;
    return NOC_OK;
}

noc_status noc_yaml_integer(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high, int64_t *value,
                            noc_error *err)
{
    char *end = NULL;
    long long number = node->kind == NOC_YAML_SCALAR && !node->is_quoted ? strtoll(node->text, &end, 10) : 0;
    if (!end || end == node->text || *end != '\0')
        return noc_yaml_fail(doc, node, err, "a whole number is wanted here%s%.60s", node->text ? ", not " : "",
                             node->text ? node->text : "");
    if (number < low || number > high)
        return noc_yaml_fail(doc, node, err, "%s must lie between %lld and %lld", node->text, (long long)low,
                             (long long)high);
    *value = number;
    return NOC_OK;
}

noc_status noc_yaml_boolean(const noc_yaml *doc, const noc_yaml_node *node, bool *value, noc_error *err)
{
    bool is_plain = node->kind == NOC_YAML_SCALAR && !node->is_quoted;
    if (!is_plain || (strcmp(node->text, "true") != 0 && strcmp(node->text, "false") != 0))
        return noc_yaml_fail(doc, node, err, "true or false is wanted here");
    *value = strcmp(node->text, "true") == 0;
    return NOC_OK;
}

static noc_status check_length(const noc_yaml *doc, const noc_yaml_node *node, size_t n, noc_error *err)
{
    if (node->kind != NOC_YAML_SEQUENCE || node->count != n)
        return noc_yaml_fail(doc, node, err, "a list of %zu numbers is wanted here", n);
    return NOC_OK;
}

noc_status noc_yaml_integers(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high, int64_t *values,
                             size_t n, noc_error *err)
{
    noc_status status = check_length(doc, node, n, err);
    for (size_t i = 0; status == NOC_OK && i < n; i++)
        status = noc_yaml_integer(doc, node->items[i], low, high, &values[i], err);
    return status;
}

noc_status noc_yaml_numbers(const noc_yaml *doc, const noc_yaml_node *node, double low, double high, double *values,
                            size_t n, noc_error *err)
{
    noc_status status = check_length(doc, node, n, err);
    for (size_t i = 0; status == NOC_OK && i < n; i++)
        status = noc_yaml_number(doc, node->items[i], low, high, &values[i], err);
    return status;
}
