/*
 * mqtt_socket.h
 *		What the library does not do at its socket.
 */
#ifndef IOT_MQTT_SOCKET_H
#define IOT_MQTT_SOCKET_H

extern bool iot_socket_connected(int fd, int *error);
extern bool iot_socket_readable(int fd);
extern void iot_socket_confirm_reading(int fd);
extern void iot_socket_wait_for_end(int fd);

#endif							/* IOT_MQTT_SOCKET_H */
