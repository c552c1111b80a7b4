/* The log. One line is one write, so that lines of several ranks do not mix. */
#include "engine/base/log.h"

#include "engine/base/clock.h"
#include "engine/base/text.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

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

static void format_line(noc_text *line, noc_log_level level, const char *message)
{
    char now[NOC_CLOCK_TEXT];
    noc_clock_utc(noc_clock_unix_ns(), 1, now);
    if (sink.format == NOC_LOG_JSON) {
        noc_text_add(line, "{\"time\":\"%s\",\"level\":\"%s\"", now, level_names[level]);
        if (sink.rank >= 0)
            noc_text_add(line, ",\"rank\":%d", sink.rank);
        noc_text_add(line, ",\"message\":");
        noc_text_add_json(line, message);
        noc_text_add(line, "}\n");
        return;
    }
    noc_text_add(line, "%s %-5s ", now, level_names[level]);
    if (sink.rank >= 0)
        noc_text_add(line, "[%d] ", sink.rank);
    noc_text_add(line, "%s\n", message);
}

void noc_log(noc_log_level level, const char *format, ...)
{
    char message[2048];
    va_list arguments;
    noc_text line = {0};
    pthread_mutex_lock(&sink.lock);
    if (level <= sink.level) {
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
        format_line(&line, level, message);
        if (!line.failed && write(STDERR_FILENO, line.data, line.size) < 0) {
            /* nobody to tell */
        }
    }
    pthread_mutex_unlock(&sink.lock);
    noc_text_free(&line);
}
