# What a database holds, as text, so that a copy of it can be held against it.
#
#   rows_of($iot, $database)             a line per table: a hash of its rows, and their number
#   shape_of($iot, $database, @kinds)    whatever else decides how the tables behave, all of it or
#                                        these kinds (the keys of %shape)
#   difference($one, $other)             the lines that only one of two texts has; '' where none

package IotTest::Contents;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(rows_of shape_of difference);

sub rows_of
{
	my ($iot, $db) = @_;

	return $iot->psql(
		q{SELECT c.oid::regclass, (xpath('/row/hash/text()', query_to_xml(format(
				'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) AS hash, count(*) FROM %s t',
				c.oid::regclass), false, true, '')))[1], (xpath('/row/count/text()',
			query_to_xml(format('SELECT count(*) FROM %s t', c.oid::regclass), false, true, '')))[1]
		FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')
		ORDER BY c.oid::regclass::text}, database => $db);
}

my %shape = (
	# how far they have counted
	sequences => q{SELECT s.sequencename, s.last_value, s.sequenceowner FROM pg_sequences s
			WHERE s.schemaname = 'iot' ORDER BY 1},
	# owners and grants
	relations => q{SELECT c.relname, c.relkind, pg_get_userbyid(c.relowner), c.relrowsecurity, c.reloptions,
				ARRAY(SELECT a::text FROM unnest(coalesce(c.relacl,
					acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", c.relowner))) a ORDER BY 1)
			FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind <> 'i'
				AND c.relkind <> 'I' ORDER BY 1},
	columns => q{SELECT a.attrelid::regclass, a.attname, a.attacl FROM pg_attribute a
			JOIN pg_class c ON c.oid = a.attrelid
			WHERE c.relnamespace = 'iot'::regnamespace AND a.attacl IS NOT NULL
			ORDER BY 1::text, 2},
	schemas => q{SELECT n.nspname, pg_get_userbyid(n.nspowner),
				ARRAY(SELECT a::text FROM unnest(n.nspacl) a ORDER BY 1)
			FROM pg_namespace n WHERE n.nspname LIKE 'iot%' ORDER BY 1},
	functions => q{SELECT p.oid::regprocedure, pg_get_userbyid(p.proowner), p.prosecdef, p.proconfig,
				ARRAY(SELECT a::text FROM unnest(p.proacl) a ORDER BY 1)
			FROM pg_proc p WHERE p.pronamespace::regnamespace::text LIKE 'iot%' ORDER BY 1::text},
	triggers => q{SELECT t.tgrelid::regclass, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)
			FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
			WHERE c.relnamespace = 'iot'::regnamespace AND NOT t.tgisinternal ORDER BY 1::text, 2},
	defaults => q{SELECT d.adrelid::regclass, d.adnum, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
			JOIN pg_class c ON c.oid = d.adrelid
			WHERE c.relnamespace = 'iot'::regnamespace ORDER BY 1::text, 2},
	constraints => q{SELECT n.conrelid::regclass, n.conname, n.convalidated, pg_get_constraintdef(n.oid)
			FROM pg_constraint n WHERE n.connamespace = 'iot'::regnamespace ORDER BY 1::text, 2},
	indexes => q{SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'iot' ORDER BY 1},
	views => q{SELECT viewname, definition FROM pg_views WHERE schemaname = 'iot' ORDER BY 1},
	comments => q{SELECT o.classoid::regclass, pg_describe_object(o.classoid, o.objoid, o.objsubid),
				o.description FROM pg_description o
			WHERE pg_describe_object(o.classoid, o.objoid, o.objsubid) LIKE '% iot%' ORDER BY 1::text, 2},
	policies => q{SELECT p.* FROM pg_policies p WHERE p.schemaname = 'iot'
			ORDER BY p.tablename, p.policyname},
	# nothing but functions and their schema belongs to the extension
	members => q{SELECT DISTINCT d.classid::regclass FROM pg_depend d
			WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
				AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'iot') ORDER BY 1});

sub shape_of
{
	my ($iot, $db, @kinds) = @_;

	return join "\n",
	  map { $iot->psql($shape{$_}, database => $db) } @kinds ? @kinds : sort keys %shape;
}

sub difference
{
	my %left = map { $_ => 1 } split /\n/, $_[0];
	my %right = map { $_ => 1 } split /\n/, $_[1];

	return join "\n", (map { "< $_" } grep { !$right{$_} } sort keys %left),
	  (map { "> $_" } grep { !$left{$_} } sort keys %right);
}

1;
