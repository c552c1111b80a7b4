/* dataset.json as the Medical Segmentation Decathlon has it: `training` holds objects of image and label,
 * `test` names or objects. Also read: a list of images as the channels of one study, and training entries
 * without a label. */
#include "catalog/source.h"

#include "engine/base/file.h"
#include "engine/base/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 256 << 20 };

/* Entry number `index` of `list`, for complaints. */
typedef struct place {
    const char *path, *list;
    size_t index;
} place;

static noc_status fail_at(const place *at, const char *what, noc_error *err)
{
    return noc_fail(err, NOC_EDATA, "%s: %s[%zu] %s", at->path, at->list, at->index, what);
}

const char *noc_dataset_path(const json_t *value)
{
    const char *text = json_string_value(value);
    bool is_path = text && text[0] && !strchr(text, '\n') && strlen(text) == json_string_length(value);
    return is_path ? text : NULL;
}

static noc_status read_images(const place *at, const json_t *images, noc_source_entry *entry, noc_error *err)
{
    size_t count = json_is_array(images) ? json_array_size(images) : 1;
    if (count < 1 || count > NOC_STUDY_CHANNELS)
        return fail_at(at, "has no image, or too many", err);
    for (size_t i = 0; i < count; i++) {
        entry->channels[i] = noc_dataset_path(json_is_array(images) ? json_array_get(images, i) : images);
        if (!entry->channels[i])
            return fail_at(at, "has an image that is no path", err);
    }
    entry->channel_count = (int)count;
    return NOC_OK;
}

static noc_status read_entry(const place *at, const json_t *value, noc_source_entry *entry, noc_error *err)
{
    if (json_is_string(value))
        return read_images(at, value, entry, err);
    if (!json_is_object(value))
        return fail_at(at, "is neither a name nor an object with `image`", err);
    const json_t *image = json_object_get(value, "image"), *label = json_object_get(value, "label");
    if (!image)
        return fail_at(at, "has no `image`", err);
    if (label && !json_is_null(label)) {
        entry->truth = noc_dataset_path(label);
        if (!entry->truth)
            return fail_at(at, "has a `label` that is no path", err);
    }
    return read_images(at, image, entry, err);
}

/* Leftovers of macOS archives, named in some data sets. */
static bool is_leftover(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strncmp(slash ? slash + 1 : path, "._", 2) == 0;
}

static noc_status read_list(const char *path, const char *folder, const json_t *root, const char *name,
                            noc_source *source, size_t *count, noc_error *err)
{
    const json_t *list = json_object_get(root, name);
    if (list && !json_is_array(list))
        return noc_fail(err, NOC_EDATA, "%s: `%s` is not a list", path, name);
    *count = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        place at = {path, name, i};
        noc_source_entry entry = {.folder = folder, .layout = "msd"};
        noc_status status = read_entry(&at, json_array_get(list, i), &entry, err);
        if (status != NOC_OK)
            return status;
        if (is_leftover(entry.channels[0]))
            continue;
        ++*count;
        status = noc_source_add(source, &entry, err);
        if (status != NOC_OK)
            return status;
    }
    return NOC_OK;
}

static bool is_number_wrong(const json_t *root, const char *name, size_t count)
{
    const json_t *number = json_object_get(root, name);
    return number && !(json_is_integer(number) && json_integer_value(number) == (json_int_t)count);
}

static noc_status read_root(const char *path, const char *folder, const json_t *root, noc_source *source,
                            noc_error *err)
{
    size_t training = 0, test = 0;
    if (!json_object_get(root, "training") && !json_object_get(root, "test"))
        return noc_fail(err, NOC_EDATA, "%s: has neither `training` nor `test` nor `channel_names`", path);
    noc_status status = read_list(path, folder, root, "training", source, &training, err);
    if (status == NOC_OK)
        status = read_list(path, folder, root, "test", source, &test, err);
    if (status != NOC_OK)
        return status;
    if (training + test == 0)
        return noc_fail(err, NOC_EDATA, "%s: `training` and `test` are empty", path);
    if (is_number_wrong(root, "numTraining", training) || is_number_wrong(root, "numTest", test))
        noc_source_warn(source, "dataset.json: numTraining or numTest is wrong: it names %zu and %zu images",
                        training, test);
    return NOC_OK;
}

noc_status noc_dataset_load(const char *path, json_t **root, noc_error *err)
{
    char *data = NULL;
    size_t size = 0;
    json_error_t at;
    bool is_memory;
    noc_status status = noc_file_read(path, MAX_BYTES, &data, &size, err);
    if (status != NOC_OK)
        return status;
    size_t mark = size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    json_t *made = noc_json_load(data + mark, size - mark, 0, &at, &is_memory);
    free(data);
    if (!made && is_memory)
        return noc_fail(err, NOC_ENOMEMORY, "%s: no memory to read it", path);
    if (!made)
        return noc_fail(err, NOC_EDATA, "%s:%d: %s", path, at.line, at.text);
    if (!json_is_object(made)) {
        json_decref(made);
        return noc_fail(err, NOC_EDATA, "%s: not an object", path);
    }
    *root = made;
    return NOC_OK;
}

noc_status noc_msd_read(const char *path, const json_t *root, noc_source *source, noc_error *err)
{
    char *folder = noc_path_folder(path, err);
    noc_status status = folder ? read_root(path, folder, root, source, err) : NOC_ENOMEMORY;
    free(folder);
    return status;
}
