/* List files: CSV by RFC 4180 with a header; also a byte order mark and lines that end in LF alone. Fields
 * are decoded in place: what they decode to is never longer than what stands in the file. */
#include "catalog/source.h"

#include "engine/base/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_BYTES = 256 << 20, MAX_FIELDS = 64 };

typedef struct csv {
    const char *path;
    char *at, *end;
    int64_t line;   /* of the next byte */
    int64_t record; /* line on which the last record began */
    char *fields[MAX_FIELDS];
    int count;
} csv;

typedef struct columns {
    int key, image, truth; /* -1: not there */
    int count;
} columns;

static noc_status fail_at(const csv *file, int64_t line, const char *what, noc_error *err)
{
    return noc_fail(err, NOC_EDATA, "%s:%" PRId64 ": %s", file->path, line, what);
}

/* ---- bytes ---- */

/* Length of the UTF-8 character at s, 0 when it is none (or is overlong, a surrogate, beyond the last). */
static size_t character_length(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return s[0] != 0;
    size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    }
    bool is_wrong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
                    (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F);
    return is_wrong ? 0 : length;
}

static noc_status check_text(const csv *file, noc_error *err)
{
    int64_t line = 1;
    for (const char *c = file->at; c < file->end;) {
        size_t length = character_length((const unsigned char *)c, (size_t)(file->end - c));
        if (length == 0)
            return fail_at(file, line, "not UTF-8 text; neither a list of studies nor a known image", err);
        line += *c == '\n';
        c += length;
    }
    return NOC_OK;
}

/* ---- records ---- */

static noc_status read_quoted(csv *file, char **out, noc_error *err)
{
    int64_t opened = file->line;
    file->at++;
    while (file->at < file->end) {
        if (*file->at == '"' && file->at + 1 < file->end && file->at[1] == '"') {
            file->at++;
        } else if (*file->at == '"') {
            file->at++;
            return NOC_OK;
        }
        file->line += *file->at == '\n';
        *(*out)++ = *file->at++;
    }
    return fail_at(file, opened, "a quoted field has no end", err);
}

static noc_status read_plain(csv *file, char **out, noc_error *err)
{
    while (file->at < file->end && !strchr(",\r\n", *file->at)) {
        if (*file->at == '"')
            return fail_at(file, file->line, "a quote inside a field that does not begin with one", err);
        *(*out)++ = *file->at++;
    }
    return NOC_OK;
}

/* One field and what ends it; *is_last: that was the end of the record. */
static noc_status read_field(csv *file, bool *is_last, noc_error *err)
{
    char *out = file->at;
    if (file->count == MAX_FIELDS)
        return fail_at(file, file->line, "too many fields", err);
    file->fields[file->count++] = out;
    noc_status status =
        file->at < file->end && *file->at == '"' ? read_quoted(file, &out, err) : read_plain(file, &out, err);
    if (status != NOC_OK)
        return status;
    char ending = '\n';
    if (file->at < file->end) {
        if (*file->at == '\r' && file->at + 1 < file->end && file->at[1] == '\n')
            file->at++;
        ending = *file->at++;
        file->line += ending == '\n';
    }
    if (ending != ',' && ending != '\n')
        return fail_at(file, file->line, "a field goes on after its closing quote, or a lone carriage return",
                       err);
    *out = 0;
    *is_last = ending == '\n';
    return NOC_OK;
}

/* The next record that is no empty line; *has false at the end. */
static noc_status read_record(csv *file, bool *has, noc_error *err)
{
    while (file->at < file->end) {
        bool is_last = false;
        file->count = 0;
        file->record = file->line;
        while (!is_last) {
            noc_status status = read_field(file, &is_last, err);
            if (status != NOC_OK)
                return status;
        }
        *has = file->count > 1 || file->fields[0][0];
        if (*has)
            return NOC_OK;
    }
    *has = false;
    return NOC_OK;
}

/* ---- meaning ---- */

static noc_status read_header(csv *file, columns *found, noc_source *source, noc_error *err)
{
    bool has = false;
    noc_status status = read_record(file, &has, err);
    *found = (columns){-1, -1, -1, file->count};
    if (status != NOC_OK)
        return status;
    for (int i = 0; has && i < file->count; i++) {
        int *column = strcasecmp(file->fields[i], "key") == 0     ? &found->key
                      : strcasecmp(file->fields[i], "image") == 0 ? &found->image
                      : strcasecmp(file->fields[i], "truth") == 0 ? &found->truth
                                                                  : NULL;
        if (!column) {
            noc_source_warn(source, "list: column %d is neither key, image nor truth: left out", i + 1);
            continue;
        }
        if (*column >= 0)
            return fail_at(file, file->record, "a column stands twice in the header", err);
        *column = i;
    }
    if (found->image < 0)
        return fail_at(file, has ? file->record : 1,
                       "no column `image`: a list of studies begins with the line key,image,truth", err);
    return NOC_OK;
}

static noc_status split_images(const csv *file, char *images, noc_source_entry *entry, noc_error *err)
{
    char *rest = images, *image;
    while ((image = strsep(&rest, ";"))) {
        if (entry->channel_count == NOC_STUDY_CHANNELS)
            return fail_at(file, file->record, "more channels than a study can have (16)", err);
        if (image[0] == 0 || strchr(image, '\n'))
            return fail_at(file, file->record, "an image without a name, or with a line break in it", err);
        entry->channels[entry->channel_count++] = image;
    }
    return NOC_OK;
}

static noc_status read_line(csv *file, const columns *found, const char *folder, noc_source *source,
                            noc_error *err)
{
    noc_source_entry entry = {.folder = folder, .layout = "list"};
    if (file->count != found->count)
        return noc_fail(err, NOC_EDATA, "%s:%" PRId64 ": %d fields, the header has %d", file->path,
                        file->record, file->count, found->count);
    if (found->key >= 0)
        entry.key = file->fields[found->key];
    if (found->truth >= 0 && file->fields[found->truth][0])
        entry.truth = file->fields[found->truth];
    noc_status status = split_images(file, file->fields[found->image], &entry, err);
    if (status == NOC_OK)
        status = noc_source_add(source, &entry, err);
    return status;
}

static noc_status read_lines(csv *file, const char *folder, noc_source *source, noc_error *err)
{
    columns found;
    bool has = true;
    int64_t lines = 0;
    noc_status status = check_text(file, err);
    if (status == NOC_OK)
        status = read_header(file, &found, source, err);
    while (status == NOC_OK) {
        status = read_record(file, &has, err);
        if (status != NOC_OK || !has)
            break;
        status = read_line(file, &found, folder, source, err);
        lines++;
    }
    if (status == NOC_OK && lines == 0)
        return fail_at(file, file->line, "the list names no study", err);
    return status;
}

noc_status noc_list_read(const char *path, noc_source *source, noc_error *err)
{
    char *data = NULL;
    size_t size = 0;
    noc_status status = noc_file_read(path, MAX_BYTES, &data, &size, err);
    if (status != NOC_OK)
        return status;
    csv file = {.path = path, .at = data, .end = data + size, .line = 1};
    if (size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0)
        file.at += 3;
    char *folder = noc_path_folder(path, err);
    status = folder ? read_lines(&file, folder, source, err) : NOC_ENOMEMORY;
    free(folder);
    free(data);
    return status;
}
