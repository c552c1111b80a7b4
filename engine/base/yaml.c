/* The YAML reader: libyaml's events become a tree of nodes that know their lines; what a value must be is
 * checked when it is asked for. A document is bounded in bytes, nodes and depth, so that no file can hold up
 * a run. */
#include "engine/base/yaml.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { DEPTH_MAX = 32, NODES_MAX = 20000, BYTES_MAX = 4 << 20, KEY_MAX = 64 };

struct noc_yaml_node {
    noc_yaml_kind kind;
    int line;
    bool is_quoted;
    char *text;            /* of a scalar */
    struct key *keys;      /* of a mapping */
    noc_yaml_node **items; /* of a sequence or mapping */
    size_t count, capacity;
};

struct key {
    char *text;
    int line;
};

struct noc_yaml {
    char *name;
    noc_yaml_node *root;
};

typedef struct reader {
    yaml_parser_t parser;
    const char *data;
    size_t size;
    noc_yaml *doc;
    int nodes;
    noc_error *err;
} reader;

static void node_free(noc_yaml_node *node)
{
    if (!node)
        return;
    for (size_t i = 0; i < node->count; i++) {
        node_free(node->items[i]);
        if (node->keys)
            free(node->keys[i].text);
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

static noc_status no_memory(const reader *r)
{
    return noc_fail(r->err, NOC_ENOMEMORY, "%s: no memory to read it", r->doc->name);
}

static int line_of(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

/* Bytes that are no UTF-8 are reported by their offset alone. */
static int line_at_offset(const reader *r, size_t offset)
{
    int line = 1;

    for (size_t i = 0; i < offset && i < r->size; i++)
        line += r->data[i] == '\n';
    return line;
}

static noc_status next_event(reader *r, yaml_event_t *event)
{
    const yaml_parser_t *parser = &r->parser;

    if (yaml_parser_parse(&r->parser, event))
        return NOC_OK;
    if (parser->error == YAML_MEMORY_ERROR)
        return no_memory(r);
    const char *problem = parser->problem ? parser->problem : "this is no YAML";
    if (parser->error == YAML_READER_ERROR)
        return fail_at(r, line_at_offset(r, parser->problem_offset), problem);
    return fail_at(r, (int)parser->problem_mark.line + 1, problem);
}

static bool make_room(noc_yaml_node *node)
{
    if (node->count < node->capacity)
        return true;

    size_t capacity = node->capacity ? 2 * node->capacity : 8;
    noc_yaml_node **items = realloc(node->items, capacity * sizeof *items);
    if (!items)
        return false;
    node->items = items;
    if (node->kind == NOC_YAML_MAPPING) {
        struct key *keys = realloc(node->keys, capacity * sizeof *keys);
        if (!keys)
            return false;
        node->keys = keys;
    }
    node->capacity = capacity;
    return true;
}

static noc_status read_node(reader *r, const yaml_event_t *event, int depth, noc_yaml_node **node);

/* The key that the event holds joins the mapping; its value is read next. */
static noc_status add_key(reader *r, noc_yaml_node *mapping, const yaml_event_t *event)
{
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.anchor || event->data.scalar.tag)
        return fail_at(r, line_of(event), "a key must be a plain text");

    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length)
        return fail_at(r, line_of(event), "a key must not hold a zero byte");
    for (size_t i = 0; i < mapping->count; i++)
        if (strcmp(mapping->keys[i].text, text) == 0)
            return noc_fail(r->err, NOC_ECONFIG, "%s:%d: key \"%s\" stands already in line %d", r->doc->name,
                            line_of(event), text, mapping->keys[i].line);
    if (!make_room(mapping))
        return no_memory(r);
    struct key key = {.text = noc_strdup(text, r->err), .line = line_of(event)};
    if (!key.text)
        return NOC_ENOMEMORY;
    mapping->keys[mapping->count] = key;
    mapping->items[mapping->count] = NULL;
    mapping->count++;
    return NOC_OK;
}

/* One more item of a sequence, or key and value of a mapping; *ended at the end. */
static noc_status read_item(reader *r, noc_yaml_node *node, int depth, bool *ended)
{
    yaml_event_t event;
    noc_status status = next_event(r, &event);

    if (status != NOC_OK)
        return status;
    *ended = event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT;
    if (*ended)
        goto out;
    if (node->kind == NOC_YAML_MAPPING) {
        status = add_key(r, node, &event);
        yaml_event_delete(&event);
        if (status == NOC_OK)
            status = next_event(r, &event);
        if (status == NOC_OK)
            status = read_node(r, &event, depth + 1, &node->items[node->count - 1]);
    } else if (make_room(node)) {
        status = read_node(r, &event, depth + 1, &node->items[node->count]);
        node->count += status == NOC_OK;
    } else {
        status = no_memory(r);
    }
out:
    yaml_event_delete(&event);
    return status;
}

static noc_status read_items(reader *r, noc_yaml_node *node, noc_yaml_kind kind, int depth)
{
    noc_status status = NOC_OK;

    node->kind = kind;
    for (bool ended = false; status == NOC_OK && !ended;)
        status = read_item(r, node, depth, &ended);
    return status;
}

static noc_status read_scalar(reader *r, const yaml_event_t *event, noc_yaml_node *node)
{
    const char *text = (const char *)event->data.scalar.value;

    if (strlen(text) != event->data.scalar.length)
        return fail_at(r, node->line, "a text must not hold a zero byte");
    node->kind = NOC_YAML_SCALAR;
    node->is_quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = noc_strdup(text, r->err);
    return node->text ? NOC_OK : NOC_ENOMEMORY;
}

static bool is_decorated(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor || event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor || event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor || event->data.mapping_start.tag;
    default: /* an alias */
        return true;
    }
}

/* The node that begins with that event. */
static noc_status read_node(reader *r, const yaml_event_t *event, int depth, noc_yaml_node **node)
{
    if (is_decorated(event))
        return fail_at(r, line_of(event), "anchors, aliases and tags are not understood here");
    if (depth > DEPTH_MAX || ++r->nodes > NODES_MAX)
        return fail_at(r, line_of(event),
                       depth > DEPTH_MAX ? "nested too deeply" : "too many values in one file");

    noc_yaml_node *made = calloc(1, sizeof *made);
    if (!made)
        return no_memory(r);
    made->line = line_of(event);
    noc_status status;
    if (event->type == YAML_SCALAR_EVENT)
        status = read_scalar(r, event, made);
    else
        status = read_items(
            r, made, event->type == YAML_MAPPING_START_EVENT ? NOC_YAML_MAPPING : NOC_YAML_SEQUENCE, depth);
    if (status != NOC_OK) {
        node_free(made);
        return status;
    }
    *node = made;
    return NOC_OK;
}

/* The stream's start and end and one document. */
static noc_status read_stream(reader *r)
{
    noc_status status = NOC_OK;
    int documents = 0;

    for (bool ended = false; status == NOC_OK && !ended;) {
        yaml_event_t event;
        status = next_event(r, &event);
        if (status != NOC_OK)
            return status;
        ended = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
            status = fail_at(r, line_of(&event), "a second document begins here");
        else if (event.type == YAML_SCALAR_EVENT || event.type == YAML_SEQUENCE_START_EVENT ||
                 event.type == YAML_MAPPING_START_EVENT)
            status = read_node(r, &event, 0, &r->doc->root);
        yaml_event_delete(&event);
    }
    return status;
}

/* "---" alone gives one empty scalar. */
static void drop_empty_root(noc_yaml *doc)
{
    const noc_yaml_node *root = doc->root;

    if (root && root->kind == NOC_YAML_SCALAR && !root->is_quoted && root->text[0] == '\0') {
        node_free(doc->root);
        doc->root = NULL;
    }
}

noc_status noc_yaml_parse(const char *name, const char *data, size_t size, noc_yaml **doc, noc_error *err)
{
    reader r = {.data = data, .size = size, .err = err};

    r.doc = noc_alloc_zeroed(1, sizeof *r.doc, err);
    if (!r.doc || !(r.doc->name = noc_strdup(name, err))) {
        noc_yaml_free(r.doc);
        return NOC_ENOMEMORY;
    }
    noc_status status = no_memory(&r);
    if (yaml_parser_initialize(&r.parser)) {
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)data, size);
        status = read_stream(&r);
        yaml_parser_delete(&r.parser);
    }
    if (status != NOC_OK) {
        noc_yaml_free(r.doc);
        return status;
    }
    drop_empty_root(r.doc);
    *doc = r.doc;
    return NOC_OK;
}

noc_status noc_yaml_load(const char *path, noc_yaml **doc, noc_error *err)
{
    noc_error why;
    char *data;
    size_t size;
    noc_status status = noc_file_read(path, BYTES_MAX, &data, &size, &why);

    if (status != NOC_OK)
        return noc_fail(err, status == NOC_ETOOLARGE ? NOC_ECONFIG : status, "%s", why.text);
    status = noc_yaml_parse(path, data, size, doc, err);
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
        if (strcmp(mapping->keys[i].text, key) == 0)
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
    return mapping->keys[i].text;
}

noc_status noc_yaml_fail(const noc_yaml *doc, const noc_yaml_node *node, noc_error *err, const char *format,
                         ...)
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

/* How many letters must be put in, left out or changed to make b of a. Texts of KEY_MAX letters or more:
 * KEY_MAX. */
static size_t edits(const char *a, const char *b)
{
    size_t row[KEY_MAX], length = strlen(b);

    if (strlen(a) >= KEY_MAX || length >= KEY_MAX)
        return KEY_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t change = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t least = (row[j] < diagonal ? row[j] : diagonal) + 1;
            row[j + 1] = change < least ? change : least;
        }
    }
    return row[length];
}

/* The known key that a slip of the pen would have turned into this one; NULL when none is near. */
static const char *nearest_key(const char *key, const char *const keys[])
{
    const char *nearest = NULL;
    size_t fewest = strlen(key) / 3 + 2;

    for (size_t i = 0; keys[i]; i++) {
        size_t n = edits(key, keys[i]);
        if (n < fewest && n < strlen(keys[i])) {
            fewest = n;
            nearest = keys[i];
        }
    }
    return nearest;
}

static bool is_listed(const char *key, const char *const keys[])
{
    for (size_t i = 0; keys[i]; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

noc_status noc_yaml_only(const noc_yaml *doc, const noc_yaml_node *mapping, const char *const keys[],
                         noc_error *err)
{
    if (!mapping || mapping->kind != NOC_YAML_MAPPING)
        return noc_yaml_fail(doc, mapping, err, "a mapping (key: value) is wanted here");
    for (size_t i = 0; i < mapping->count; i++) {
        const struct key *key = &mapping->keys[i];
        if (is_listed(key->text, keys))
            continue;
        const char *nearest = nearest_key(key->text, keys);
        if (nearest)
            return noc_fail(err, NOC_ECONFIG, "%s:%d: unknown key \"%s\"; did you mean \"%s\"?", doc->name,
                            key->line, key->text, nearest);
        return noc_fail(err, NOC_ECONFIG, "%s:%d: unknown key \"%s\"", doc->name, key->line, key->text);
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

/* What a node is, for complaints. */
static const char *kind_text(const noc_yaml_node *node)
{
    if (node->kind == NOC_YAML_MAPPING)
        return "a mapping";
    if (node->kind == NOC_YAML_SEQUENCE)
        return "a list";
    return node->is_quoted ? "a quoted text" : node->text[0] == '\0' ? "nothing" : node->text;
}

noc_status noc_yaml_text(const noc_yaml *doc, const noc_yaml_node *node, const char **value, noc_error *err)
{
    if (node->kind != NOC_YAML_SCALAR || (!node->is_quoted && node->text[0] == '\0'))
        return noc_yaml_fail(doc, node, err, "a text is wanted here, not %s", kind_text(node));
    *value = node->text;
    return NOC_OK;
}

noc_status noc_yaml_integer(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high,
                            int64_t *value, noc_error *err)
{
    noc_error why;
    int64_t any;

    if (node->kind != NOC_YAML_SCALAR || node->is_quoted)
        return noc_yaml_fail(doc, node, err, "an integer is wanted here, not %s", kind_text(node));
    if (noc_parse_integer(node->text, low, high, &any, &why) != NOC_OK)
        return noc_yaml_fail(doc, node, err, "%s", why.text);
    *value = any;
    return NOC_OK;
}

noc_status noc_yaml_number(const noc_yaml *doc, const noc_yaml_node *node, double low, double high,
                           double *value, noc_error *err)
{
    noc_error why;

    if (node->kind != NOC_YAML_SCALAR || node->is_quoted)
        return noc_yaml_fail(doc, node, err, "a number is wanted here, not %s", kind_text(node));
    if (noc_parse_number(node->text, low, high, value, &why) != NOC_OK)
        return noc_yaml_fail(doc, node, err, "%s", why.text);
    return NOC_OK;
}

noc_status noc_yaml_boolean(const noc_yaml *doc, const noc_yaml_node *node, bool *value, noc_error *err)
{
    bool is_plain = node->kind == NOC_YAML_SCALAR && !node->is_quoted;

    if (!is_plain || (strcmp(node->text, "true") != 0 && strcmp(node->text, "false") != 0))
        return noc_yaml_fail(doc, node, err, "true or false is wanted here, not %s", kind_text(node));
    *value = strcmp(node->text, "true") == 0;
    return NOC_OK;
}

static noc_status check_length(const noc_yaml *doc, const noc_yaml_node *node, size_t n, noc_error *err)
{
    if (node->kind != NOC_YAML_SEQUENCE)
        return noc_yaml_fail(doc, node, err, "a list of %zu numbers is wanted here, not %s", n,
                             kind_text(node));
    if (node->count != n)
        return noc_yaml_fail(doc, node, err, "a list of %zu numbers is wanted here, not of %zu", n,
                             node->count);
    return NOC_OK;
}

noc_status noc_yaml_integers(const noc_yaml *doc, const noc_yaml_node *node, int64_t low, int64_t high,
                             int64_t *values, size_t n, noc_error *err)
{
    noc_status status = check_length(doc, node, n, err);
    int64_t any;

    for (size_t i = 0; status == NOC_OK && i < n; i++)
        status = noc_yaml_integer(doc, node->items[i], low, high, &any, err);
    for (size_t i = 0; status == NOC_OK && i < n; i++)
        noc_yaml_integer(doc, node->items[i], low, high, &values[i], NULL);
    return status;
}

noc_status noc_yaml_numbers(const noc_yaml *doc, const noc_yaml_node *node, double low, double high,
                            double *values, size_t n, noc_error *err)
{
    noc_status status = check_length(doc, node, n, err);
    double any;

    for (size_t i = 0; status == NOC_OK && i < n; i++)
        status = noc_yaml_number(doc, node->items[i], low, high, &any, err);
    for (size_t i = 0; status == NOC_OK && i < n; i++)
        noc_yaml_number(doc, node->items[i], low, high, &values[i], NULL);
    return status;
}
