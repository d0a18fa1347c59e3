-- E-mail as bytes: RFC 5322 with nothing but ASCII in it, whatever words it carries.

-- A header's text as RFC 2047 has it: as it is where it is plain ASCII, else in encoded words of at
-- most 75 characters, cut between characters.  Control characters become blanks: nothing that a
-- template or a user brings can end the line.
CREATE OR REPLACE FUNCTION iot_internal.mail_words(words text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	clean text := btrim(regexp_replace(words, '[[:cntrl:]]+', ' ', 'g'));
	encoded text[] := '{}';
	part text := '';
	letter text;
BEGIN
	IF clean ~ '^[\x20-\x7e]*$' AND strpos(clean, '=?') = 0 AND length(clean) <= 900 THEN
		RETURN clean;
	END IF;
	FOREACH letter IN ARRAY regexp_split_to_array(clean, '') LOOP
		IF octet_length(convert_to(part || letter, 'UTF8')) > 45 THEN
			encoded := encoded || part;
			part := '';
		END IF;
		part := part || letter;
	END LOOP;
	encoded := encoded || part;
	RETURN (SELECT string_agg(format('=?UTF-8?B?%s?=', encode(convert_to(e.part, 'UTF8'), 'base64')),
			E'\r\n ' ORDER BY e.place)
		FROM unnest(encoded) WITH ORDINALITY AS e(part, place));
END
$$;

-- The name beside an address: encoded where a phrase of atoms is not enough.
CREATE OR REPLACE FUNCTION iot_internal.mail_phrase(name text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name ~ '^[A-Za-z0-9 ]*$' THEN
		RETURN btrim(name);
	END IF;
	-- what mail_words() would leave as it is may still be special here: quote it
	IF name ~ '^[\x20-\x7e]*$' THEN
		RETURN '"' || regexp_replace(name, '(["\\])', '\\\1', 'g') || '"';
	END IF;
	RETURN iot_internal.mail_words(name);
END
$$;

-- A whole message.  Message-ID and Date are those of the notification and its recipient, so that an
-- attempt that is made again brings the same message; References lets clients show the messages of
-- an alarm together.
CREATE OR REPLACE FUNCTION iot_internal.mail_message(event_id uuid, at timestamptz, event text,
	alarm_id text, sender text, sender_name text, address text, subject text, words text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	utc timestamp := at AT TIME ZONE 'UTC';
	domain text := split_part(sender, '@', 2);
BEGIN
	RETURN concat_ws(E'\r\n',
		-- day and month in English, whatever the server speaks
		format('Date: %s, %s %s %s +0000',
			(ARRAY['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'])[extract(isodow FROM utc)::integer],
			to_char(utc, 'DD'),
			(ARRAY['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov',
				'Dec'])[extract(month FROM utc)::integer],
			to_char(utc, 'YYYY HH24:MI:SS')),
		format('From: %s <%s>', iot_internal.mail_phrase(sender_name), sender),
		format('To: <%s>', address),
		'Subject: ' || iot_internal.mail_words(subject),
		format('Message-ID: <%s.%s@%s>', event_id, left(md5(address), 12), domain),
		CASE WHEN alarm_id ~ '^[0-9a-f-]{36}$' THEN format('References: <alarm.%s@%s>', alarm_id, domain) END,
		'Auto-Submitted: auto-generated',
		'X-Iot-Event: ' || iot_internal.mail_words(event),
		'MIME-Version: 1.0',
		'Content-Type: text/plain; charset=utf-8',
		'Content-Transfer-Encoding: base64',
		'',
		replace(encode(convert_to(regexp_replace(words, '\r?\n', E'\r\n', 'g') || E'\r\n', 'UTF8'), 'base64'),
			E'\n', E'\r\n'),
		'');
END
$$;
