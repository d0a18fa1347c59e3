-- Run once, when compose.yaml makes the database.
CREATE EXTENSION iot;
CREATE ROLE pushd LOGIN IN ROLE iot_pushd;
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT iot_anon, iot_viewer, iot_operator, iot_admin TO authenticator;
UPDATE iot.adapter
   SET url = 'mqtt://broker:1883',
       options = '{"username": "iot", "password_file": "/run/secrets/mqtt_password",
                   "device_credentials": "dynsec"}',
       enabled = true
 WHERE name = 'mqtt';
