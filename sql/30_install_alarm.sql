-- Alarms: the rules, what they raised, and what they remember.

CREATE OR REPLACE FUNCTION iot_internal.install_alarm() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
BEGIN
	-- class "reference".
	CREATE TABLE iot.alarm_rule (
		alarm_rule_id uuid CONSTRAINT alarm_rule_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT alarm_rule_name_key UNIQUE,
		kind text NOT NULL,
		scope text NOT NULL,
		device_type_id uuid CONSTRAINT alarm_rule_device_type_id_fkey
			REFERENCES iot.device_type ON DELETE CASCADE,
		device_group_id uuid CONSTRAINT alarm_rule_device_group_id_fkey
			REFERENCES iot.device_group ON DELETE CASCADE,
		device_id uuid CONSTRAINT alarm_rule_device_id_fkey
			REFERENCES iot.device ON DELETE CASCADE,
		parameter_id uuid CONSTRAINT alarm_rule_parameter_id_fkey REFERENCES iot.parameter,
		severity text NOT NULL DEFAULT 'red',
		value_min double precision,
		value_max double precision,
		close_min double precision,
		close_max double precision,
		value_min_attribute text,
		value_max_attribute text,
		red_min double precision,
		red_max double precision,
		red_close_min double precision,
		red_close_max double precision,
		comparison text,
		threshold double precision,
		close_threshold double precision,
		threshold_attribute text,
		red_threshold double precision,
		red_close_threshold double precision,
		per interval,
		timeout interval,
		red_timeout interval,
		condition jsonpath,
		stay_condition jsonpath,
		red_condition jsonpath,
		red_stay_condition jsonpath,
		time_zone text,
		weekdays integer[],
		from_time time,
		to_time time,
		repeat_count integer NOT NULL DEFAULT 1,
		duration interval NOT NULL DEFAULT '0',
		min_open interval NOT NULL DEFAULT '0',
		auto_close boolean NOT NULL DEFAULT true,
		message text NOT NULL,
		enabled boolean NOT NULL DEFAULT true,
		created_at timestamptz NOT NULL DEFAULT now(),
		updated_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT alarm_rule_kind_check
			CHECK (kind IN ('range', 'threshold', 'rate', 'no_data', 'condition')),
		CONSTRAINT alarm_rule_scope_check CHECK (scope IN ('all', 'type', 'group', 'device')),
		CONSTRAINT alarm_rule_severity_check CHECK (severity IN ('orange', 'red'))
	);
	CREATE INDEX alarm_rule_device_type_id_idx ON iot.alarm_rule (device_type_id);
	CREATE INDEX alarm_rule_device_group_id_idx ON iot.alarm_rule (device_group_id);
	CREATE INDEX alarm_rule_device_id_idx ON iot.alarm_rule (device_id);
	CREATE INDEX alarm_rule_parameter_id_idx ON iot.alarm_rule (parameter_id);
	-- what falls due in silence: see iot_internal.awaiting_rules()
	CREATE INDEX alarm_rule_awaiting_idx ON iot.alarm_rule (scope)
		WHERE enabled AND (kind = 'no_data' OR time_zone IS NOT NULL);

	-- class "device".  An alarm outlives its rule, whose name it keeps.
	CREATE TABLE iot.alarm (
		device_id uuid NOT NULL
			CONSTRAINT alarm_device_id_fkey REFERENCES iot.device ON DELETE CASCADE,
		alarm_id uuid NOT NULL,
		alarm_rule_id uuid NOT NULL,
		rule text NOT NULL,
		parameter_id uuid NOT NULL,
		severity text NOT NULL,
		severity_at timestamptz,
		highest_severity text,
		status text NOT NULL DEFAULT 'OPENED',
		value double precision,
		message text NOT NULL DEFAULT '',
		opened_at timestamptz NOT NULL,
		closed_at timestamptz,
		closed_by text,
		close_reason text,
		acknowledged_at timestamptz,
		acknowledged_by text,
		assignee text,
		assigned_at timestamptz,
		assigned_by text,
		created_at timestamptz NOT NULL DEFAULT now(),
		updated_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT alarm_pkey PRIMARY KEY (device_id, alarm_id),
		CONSTRAINT alarm_status_check CHECK (status IN ('OPENED', 'CLOSED')),
		CONSTRAINT alarm_closed_at_check CHECK ((status = 'CLOSED') = (closed_at IS NOT NULL))
	) WITH (fillfactor = 70);
	CREATE UNIQUE INDEX alarm_device_id_alarm_rule_id_key ON iot.alarm (device_id, alarm_rule_id)
		WHERE status = 'OPENED';
	-- by closed_at and not by status: who looks for a device's open alarms must not take this one, which
	-- costs the same while there are few
	CREATE INDEX alarm_alarm_rule_id_idx ON iot.alarm (alarm_rule_id) WHERE closed_at IS NULL;
	CREATE INDEX alarm_alarm_id_idx ON iot.alarm (alarm_id);
	CREATE INDEX alarm_closed_at_idx ON iot.alarm (closed_at) WHERE status = 'CLOSED';
	CREATE TABLE iot.alarm_comment (
		device_id uuid NOT NULL,
		alarm_comment_id uuid NOT NULL,
		alarm_id uuid NOT NULL,
		username text NOT NULL,
		comment text NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT alarm_comment_pkey PRIMARY KEY (device_id, alarm_comment_id),
		CONSTRAINT alarm_comment_alarm_fkey FOREIGN KEY (device_id, alarm_id)
			REFERENCES iot.alarm ON DELETE CASCADE,
		CONSTRAINT alarm_comment_comment_check CHECK (comment <> '' AND length(comment) <= 10000)
	);
	CREATE INDEX alarm_comment_device_id_alarm_id_idx ON iot.alarm_comment (device_id, alarm_id);
	-- Only of rules that remember more than their open alarm.  The row of a device that is no rule's,
	-- with an alarm_rule_id of zeros, is the device's lock.
	CREATE TABLE iot.alarm_rule_state (
		device_id uuid NOT NULL
			CONSTRAINT alarm_rule_state_device_id_fkey REFERENCES iot.device ON DELETE CASCADE,
		alarm_rule_id uuid NOT NULL,
		hits integer NOT NULL DEFAULT 0,
		since timestamptz,
		red_hits integer NOT NULL DEFAULT 0,
		red_since timestamptz,
		clear boolean NOT NULL DEFAULT false,
		judged_at timestamptz,
		due_at timestamptz,
		-- as that of iot.sensor_value
		CONSTRAINT alarm_rule_state_pkey PRIMARY KEY (device_id, alarm_rule_id)
			WITH (deduplicate_items = off)
	) WITH (fillfactor = 70);
	CREATE INDEX alarm_rule_state_alarm_rule_id_idx ON iot.alarm_rule_state (alarm_rule_id);
	CREATE INDEX alarm_rule_state_due_at_idx ON iot.alarm_rule_state (due_at)
		WHERE due_at IS NOT NULL;
	-- class "local"
	CREATE TABLE iot.alarm_rule_error (
		alarm_rule_id uuid CONSTRAINT alarm_rule_error_pkey PRIMARY KEY,
		errors integer NOT NULL,
		error text NOT NULL,
		device_id uuid NOT NULL,
		failed_at timestamptz NOT NULL DEFAULT now()
	);
END
$install$;
