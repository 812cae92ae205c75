-- Lets the stand-in for MongoDB find documents by an index, as MongoDB does.
--
-- FerretDB 1 makes B-tree indexes of the fields it is told of, but asks for a field's value by `@>`, which no B-tree
-- answers: each look-up read the whole collection. So for the first field of each of its indexes one is made that does;
-- its own are kept only where they keep ids apart, since every insert pays for them.
--
-- Without GIN's list of entries to be sorted in later: every look-up reads that list, and here most follow a write.

create or replace function public.index_for_lookups() returns event_trigger language plpgsql as $$
declare
    made record;
begin
    for made in
        select collection.oid::regclass as collection, pg_get_indexdef(ordered.oid, 1, true) as field,
            ordered.oid::regclass as ordered, pg_index.indisunique as keeps_apart
        from pg_event_trigger_ddl_commands() as command
        join pg_class as ordered on ordered.oid = command.objid
        join pg_am on pg_am.oid = ordered.relam and pg_am.amname = 'btree'
        join pg_index on pg_index.indexrelid = ordered.oid
        join pg_class as collection on collection.oid = pg_index.indrelid
        where collection.relname not like '\_ferretdb\_%'
    loop
        execute format(
            'create index if not exists %I on %s using gin ((%s) jsonb_path_ops) with (fastupdate = off)',
            'lookup_' || md5(made.collection || ' ' || made.field), made.collection, made.field);
        if not made.keeps_apart then
            execute format('drop index %s', made.ordered);
        end if;
    end loop;
end $$;

drop event trigger if exists index_for_lookups;
create event trigger index_for_lookups on ddl_command_end when tag in ('CREATE INDEX')
    execute function public.index_for_lookups();

-- The field's name is a parameter of FerretDB's queries: a plan that is right for any name knows no index.
do $$ begin
    execute format('alter database %I set plan_cache_mode = force_custom_plan', current_database());
end $$;
