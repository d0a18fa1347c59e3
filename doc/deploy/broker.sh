#!/bin/sh
# Starts the broker of compose.yaml: the adapter's password comes as a secret, and the file of the
# dynamic security plugin has to be there the first time.
set -eu
umask 077
passwords=/var/lib/mosquitto/iot.passwd
dynsec=/var/lib/mosquitto/iot-dynsec.json
[ -e "$dynsec" ] || : >"$dynsec"
printf 'iot:%s\n' "$(cat /run/secrets/mqtt_password)" >"$passwords"
mosquitto_passwd -U "$passwords"
sed "s,^password_file .*,password_file $passwords," /etc/mosquitto/mosquitto.conf >/tmp/mosquitto.conf
exec mosquitto -c /tmp/mosquitto.conf
