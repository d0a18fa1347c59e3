/*
 * iot.h
 *		Settings and the few facts that every module of iot.so shares.
 */
#ifndef IOT_H
#define IOT_H

/* Version of the tables that these functions know; iot.schema_version holds that of the data. */
#define IOT_SCHEMA_VERSION 1

extern PGDLLEXPORT char *iot_databases;
extern PGDLLEXPORT char *iot_authenticators;
extern PGDLLEXPORT int iot_max_workers;
extern PGDLLEXPORT int iot_poll_interval;
extern PGDLLEXPORT bool iot_wakeups;
extern PGDLLEXPORT int iot_command_ttl;
extern PGDLLEXPORT int iot_max_payload_size;
extern PGDLLEXPORT bool iot_log_commands;
extern PGDLLEXPORT char *iot_jwt_key_file;
extern PGDLLEXPORT int iot_login_max_failures;
extern PGDLLEXPORT int iot_login_window;

/* True where iot is in shared_preload_libraries, so that workers and wake-ups can exist. */
extern PGDLLEXPORT bool iot_preloaded;

#endif							/* IOT_H */
