/* The log. One message is one line and one write, so that the lines of several threads and ranks do not mix.
 */
#include "engine/base/log.h"

#include "engine/base/clock.h"
#include "engine/base/text.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { MESSAGE_BYTES = 2048 };

static struct {
    pthread_mutex_t lock;
    noc_log_level level;
    noc_log_format format;
    int rank;
} sink = {PTHREAD_MUTEX_INITIALIZER, NOC_LOG_INFO, NOC_LOG_TEXT, -1};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void noc_log_open(noc_log_level level, noc_log_format format, int rank)
{
    pthread_mutex_lock(&sink.lock);
    sink.level = level;
    sink.format = format;
    sink.rank = rank;
    pthread_mutex_unlock(&sink.lock);
}

static void add_json_line(noc_text *line, noc_log_level level, const char *message)
{
    char now[NOC_CLOCK_TEXT];

    noc_clock_utc(noc_clock_unix_ns(), 1, now);
    noc_text_add(line, "{\"time\":\"%s\",\"level\":\"%s\"", now, level_names[level]);
    if (sink.rank >= 0)
        noc_text_add(line, ",\"rank\":%d", sink.rank);
    noc_text_add(line, ",\"message\":");
    noc_text_add_json(line, message);
    noc_text_add(line, "}\n");
}

static void add_text_line(noc_text *line, noc_log_level level, const char *message)
{
    char now[NOC_CLOCK_TEXT];

    noc_clock_utc(noc_clock_unix_ns(), 1, now);
    noc_text_add(line, "%s %-5s ", now, level_names[level]);
    if (sink.rank >= 0)
        noc_text_add(line, "[%d] ", sink.rank);
    size_t start = line->size;
    noc_text_add(line, "%s", message);
    /* A line break or an escape sequence out of a file's name must not look like a message of ours. */
    for (size_t i = start; i < line->size; i++)
        if ((unsigned char)line->data[i] < 0x20 || line->data[i] == 0x7f)
            line->data[i] = ' ';
    noc_text_add(line, "\n");
}

/* A log that cannot be written is nobody's failure. */
static void write_line(const noc_text *line)
{
    size_t written = 0;

    while (!line->failed && written < line->size) {
        ssize_t n = write(STDERR_FILENO, line->data + written, line->size - written);
        if (n < 0 && errno != EINTR)
            return;
        written += n > 0 ? (size_t)n : 0;
    }
}

void noc_log(noc_log_level level, const char *format, ...)
{
    char message[MESSAGE_BYTES];
    va_list arguments;
    noc_text line = {0};

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&sink.lock);
    if (level <= sink.level) {
        if (sink.format == NOC_LOG_JSON)
            add_json_line(&line, level, message);
        else
            add_text_line(&line, level, message);
        write_line(&line);
    }
    pthread_mutex_unlock(&sink.lock);
    noc_text_free(&line);
}
