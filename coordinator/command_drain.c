#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/drain.h"
#include "coordinator/options.h"

int command_drain(int argc, char **argv) {
    struct drain_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_drain(&options, &table);
    bool done;
    log_init("skein", LOG_INFO, NULL);
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_drain(&options);
    if (status == STATUS_OK && !done)
        status = drain_worker(options.worker);
    if (status == STATUS_OK && !done)
        log_info("worker %s has ended", options.worker);
    config_destroy(config);
    return status_exit_code(status);
}
