\set device random(1, :devices)
\set level random(0, 1000)
SELECT iot.send_command('bench-' || :device, 'level', :level);
