/* Files for entries, and the plain main that replays inputs. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 512, NAMES = 8 };

static char folder[PATH_BYTES], names[NAMES][64];
static int name_count;

_Noreturn void fuzz_fail(const char *file, int line, const char *claim)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, claim);
    abort();
}

static void remove_folder(void)
{
    char path[2 * PATH_BYTES];
    for (int i = 0; i < name_count; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/fuzz.XXXXXX", base ? base : "/tmp");
    MUST(mkdtemp(folder));
    atexit(remove_folder);
}

static void note_name(const char *name)
{
    for (int i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return;
    MUST(name_count < NAMES);
    snprintf(names[name_count++], sizeof names[0], "%s", name);
}

const char *fuzz_file(const char *name, const void *data, size_t size)
{
    static char paths[2][2 * PATH_BYTES];
    static int turn;
    char *path = paths[turn ^= 1];
    if (!folder[0])
        make_folder();
    note_name(name);
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    MUST(file);
    MUST(fwrite(data, 1, size, file) == size);
    MUST(fclose(file) == 0);
    return path;
}

#ifndef NOC_LIBFUZZER /* which brings its own main */

static int replayed;

static void replay_file(const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat info;
    MUST(file && fstat(fileno(file), &info) == 0);
    size_t size = (size_t)info.st_size;
    uint8_t *data = malloc(size + !size); /* to the byte, so that a sanitizer sees a read beyond the end */
    MUST(data && fread(data, 1, size, file) == size);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    replayed++;
}

static void replay(const char *path)
{
    struct dirent **items;
    char inner[2 * PATH_BYTES];
    struct stat info;
    MUST(stat(path, &info) == 0);
    if (!S_ISDIR(info.st_mode)) {
        replay_file(path);
        return;
    }
    int count = scandir(path, &items, NULL, alphasort);
    MUST(count >= 0);
    for (int i = 0; i < count; i++) {
        snprintf(inner, sizeof inner, "%s/%s", path, items[i]->d_name);
        if (items[i]->d_name[0] != '.')
            replay(inner);
        free(items[i]);
    }
    free(items);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        replay(argv[i]);
    printf("%d inputs\n", replayed);
    return replayed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
