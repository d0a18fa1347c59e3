/*
 * telemetry.h
 *		Live measurements: who listens to which sensors, and what they are told.
 */
#ifndef IOT_PUSHD_TELEMETRY_H
#define IOT_PUSHD_TELEMETRY_H

#include <cjson/cJSON.h>

#include "pushd/cell.h"

extern const char *telemetry_watch(Client *client, Cell *only, int64_t id, const cJSON *request);
extern bool telemetry_watches(const Client *client, int64_t id);
extern bool telemetry_unwatch(Client *client, int64_t id);
extern void telemetry_forget(Client *client);
extern int	telemetry_total(void);
extern bool telemetry_due(const Cell *cell);
extern bool telemetry_send(Cell *cell);
extern void telemetry_joined(const Cell *cell);
extern void telemetry_disconnected(const Cell *cell);

#endif							/* IOT_PUSHD_TELEMETRY_H */
