/* The configuration file (-c). */
#include "pipeline/settings.h"
#include "tests/fuzz/fuzz.h"

/* A device is but a name here: no kernel is needed. */
const noc_device_ops noc_cpu_ops = {.kind = "cpu"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char verb[] = "run", flag[] = "-c";
    noc_settings settings;
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_error err = {0};
    bool is_help;
    char *argv[] = {verb, flag, (char *)fuzz_file("settings.yaml", data, size), NULL};
    noc_status status = noc_settings_parse(3, argv, &settings, &is_help, &err);
    MUST(status == NOC_OK || err.text[0]);
    if (status == NOC_OK) {
        MUST(settings.catalog && settings.results && settings.heartbeat_s > 0 && settings.lease_s > 0);
        noc_settings_engine(&settings, &options);
    }
    noc_settings_free(&settings);
    return 0;
}
