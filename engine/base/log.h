/* The one log: stderr, one line a message, UTC time, level, rank; text or JSON. Thread-safe. */
#ifndef NOC_BASE_LOG_H
#define NOC_BASE_LOG_H

typedef enum noc_log_level { NOC_LOG_ERROR, NOC_LOG_WARN, NOC_LOG_INFO, NOC_LOG_DEBUG } noc_log_level;
typedef enum noc_log_format { NOC_LOG_TEXT, NOC_LOG_JSON } noc_log_format;

/* rank < 0: no rank is printed. Default before this call: info, text, no rank. */
void noc_log_open(noc_log_level level, noc_log_format format, int rank);

/* Names study keys, never file paths of scans. */
void noc_log(noc_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
