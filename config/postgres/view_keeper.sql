-- What others have built on the views of sqlmesh_user survives when SQLMesh drops such a view and makes it anew:
-- docs/decisions/0026-views-of-others-survive.md. Run in database warehouse by its owner, again at any time.
--
-- In one transaction: view_keeper.keep(view), DROP VIEW ... CASCADE, CREATE VIEW, view_keeper.restore(view).
-- restore makes views and materialized views again, those of others with the rights of role view_keeper. It has no login,
-- owns nothing but this schema, and is a member of those whose views it makes again. Not superuser, because reading a
-- definition can run its author's code.

CREATE SCHEMA IF NOT EXISTS view_keeper AUTHORIZATION view_keeper;
COMMENT ON SCHEMA view_keeper IS 'Views of others on the marts: kept while a mart is replaced';

CREATE TABLE IF NOT EXISTS view_keeper.dropped (
  dropped_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  transaction_id XID8 NOT NULL DEFAULT pg_current_xact_id(),
  dropped_with TEXT NOT NULL,
  level INTEGER NOT NULL,
  object TEXT NOT NULL,
  owner TEXT,
  reason TEXT,
  definition TEXT[],
  is_filled BOOLEAN,
  PRIMARY KEY (transaction_id, dropped_with, object)
);
COMMENT ON TABLE view_keeper.dropped IS 'One row per object that went with a view and could not be made again';
COMMENT ON COLUMN view_keeper.dropped.dropped_at IS 'When';
COMMENT ON COLUMN view_keeper.dropped.transaction_id IS 'Transaction that dropped it';
COMMENT ON COLUMN view_keeper.dropped.dropped_with IS 'The view it was built on, which was replaced or removed';
COMMENT ON COLUMN view_keeper.dropped.level IS 'Longest way from that view; 0 is the view itself';
COMMENT ON COLUMN view_keeper.dropped.object IS 'Kind and name';
COMMENT ON COLUMN view_keeper.dropped.owner IS 'Whose it was; empty: the server''s first superuser''s, or whose table it was on';
COMMENT ON COLUMN view_keeper.dropped.reason IS 'Why it could not be made again';
COMMENT ON COLUMN view_keeper.dropped.definition IS 'Statements that make it again, in order; empty when it was no view';
COMMENT ON COLUMN view_keeper.dropped.is_filled IS 'Whether a materialized view had rows; empty for all else';

-- What DROP ... CASCADE takes along with a view, at its longest way from it. The type of a relation's rows goes and comes
-- with the relation, and so does what is in pg_toast.
CREATE OR REPLACE FUNCTION view_keeper.dependents(root regclass)
RETURNS TABLE (classid oid, objid oid, level integer, object text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE found AS (
    SELECT 'pg_class'::regclass::oid AS classid, root::oid AS objid, 0 AS objsubid, 0 AS level
    UNION
    SELECT step.classid, step.objid, step.objsubid, found.level + 1
    FROM found
    JOIN pg_depend AS d ON d.refclassid = found.classid AND d.refobjid = found.objid
      AND (found.objsubid = 0 OR d.refobjsubid = found.objsubid) AND d.deptype IN ('n', 'a', 'i')
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
    CROSS JOIN LATERAL (
      SELECT
        CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS classid,
        coalesce(r.ev_class, d.objid) AS objid,
        d.objsubid
    ) AS step
    LEFT JOIN pg_class AS c ON step.classid = 'pg_class'::regclass AND c.oid = step.objid
    WHERE (step.classid, step.objid) <> (found.classid, found.objid) AND step.objid <> root
      AND c.relnamespace IS DISTINCT FROM 'pg_toast'::regnamespace
      AND found.level < 50  -- views may read each other in a circle
  )
  SELECT classid, objid, max(level), type || ' ' || identity
  FROM found CROSS JOIN pg_identify_object(classid, objid, objsubid)
  WHERE level > 0 AND NOT EXISTS (
    SELECT FROM pg_type AS t
    WHERE found.classid = 'pg_type'::regclass AND t.oid = found.objid AND (t.typtype = 'c' OR t.typcategory = 'A')
  )
  GROUP BY classid, objid, objsubid, type, identity
$$;

-- Statements that give a relation the grants it has: what the default privileges of its owner would add is taken back.
CREATE OR REPLACE FUNCTION view_keeper.grants(relation regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH acls (acl, columns) AS (
    SELECT relacl, '' FROM pg_class WHERE oid = relation
    UNION ALL
    SELECT attacl, format(' (%I)', attname) FROM pg_attribute WHERE attrelid = relation AND NOT attisdropped
  ),
  statements AS (
    SELECT DISTINCT
      0 AS place,
      format('REVOKE ALL ON %s FROM %s', relation, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END) AS text
    FROM pg_class JOIN pg_default_acl ON defaclrole = relowner AND defaclobjtype = 'r'
    CROSS JOIN aclexplode(defaclacl)
    WHERE pg_class.oid = relation AND grantee <> relowner AND defaclnamespace IN (0, relnamespace)
    UNION ALL
    SELECT
      1,
      format('GRANT %s%s ON %s TO %s%s', privilege_type, columns, relation,
             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
    FROM acls CROSS JOIN aclexplode(acl)
    WHERE grantee <> (SELECT relowner FROM pg_class WHERE oid = relation)
  )
  SELECT coalesce(array_agg(text ORDER BY place, text), '{}') FROM statements
$$;

-- Statements that make a view or a materialized view again, without its rows.
CREATE OR REPLACE FUNCTION view_keeper.definition(relation regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT
    ARRAY[
      format('CREATE %s %s%s AS %s%s', kind, relation, ' WITH (' || array_to_string(reloptions, ', ') || ')',
             rtrim(pg_get_viewdef(relation), '; '), CASE relkind WHEN 'm' THEN ' WITH NO DATA' END),
      format('ALTER %s %s OWNER TO %I', kind, relation, pg_get_userbyid(relowner))
    ]
    || ARRAY(SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = relation ORDER BY indexrelid)
    || view_keeper.grants(relation)
    || ARRAY(
      SELECT CASE objsubid
        WHEN 0 THEN format('COMMENT ON %s %s IS %L', kind, relation, description)
        ELSE format('COMMENT ON COLUMN %s.%I IS %L', relation, attname, description) END
      FROM pg_description LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid
      WHERE objoid = relation AND classoid = 'pg_class'::regclass
      ORDER BY objsubid
    )
  FROM pg_class
  CROSS JOIN LATERAL (SELECT CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END) AS k (kind)
  WHERE oid = relation AND relkind IN ('v', 'm')
$$;

-- Whether making a relation again would run its owner's code: to read a constant of a composite type, or of an array of a
-- domain, is to run the checks of the domain.
CREATE OR REPLACE FUNCTION view_keeper.runs_code(relation regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT EXISTS (
    SELECT FROM pg_depend AS d
    JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid AND t.typtype <> 'e'
    JOIN pg_roles AS r ON r.oid = t.typowner AND NOT r.rolsuper
    WHERE d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT oid FROM pg_rewrite WHERE ev_class = relation)
      OR d.classid = 'pg_class'::regclass AND d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = relation)
  )
$$;

-- Write down what depends on a view, before it is dropped. Others who replace views wait for the end of the transaction,
-- or two that share a dependent would wait for each other. Returns the name for restore.
CREATE OR REPLACE FUNCTION view_keeper.keep(root regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10min'
AS $$
BEGIN
  LOCK TABLE view_keeper.dropped IN SHARE ROW EXCLUSIVE MODE;
  INSERT INTO view_keeper.dropped (dropped_with, level, object, definition)
  VALUES (root, 0, 'view ' || root, view_keeper.grants(root));
  INSERT INTO view_keeper.dropped (dropped_with, level, object, owner, reason, definition, is_filled)
  SELECT
    root, d.level, d.object, pg_get_userbyid(s.refobjid),
    CASE
      WHEN c.oid IS NULL THEN 'only views and their indexes are made again'
      WHEN view_keeper.runs_code(c.oid) THEN 'it has values of a type that somebody defined: only its owner may make it'
    END,
    view_keeper.definition(c.oid), CASE c.relkind WHEN 'm' THEN c.relispopulated END
  FROM view_keeper.dependents(root) AS d
  LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('v', 'm')
  LEFT JOIN pg_shdepend AS s ON s.classid = d.classid AND s.objid = d.objid AND s.objsubid = 0 AND s.deptype = 'o'
    AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
  RETURN root;
END
$$;

-- Make one kept view of somebody else again.
CREATE OR REPLACE FUNCTION view_keeper.make_again(root text, name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  kept view_keeper.dropped;
  statement text;
BEGIN
  SELECT * INTO STRICT kept FROM view_keeper.dropped
  WHERE transaction_id = pg_current_xact_id() AND dropped_with = root AND object = name AND reason IS NULL AND level > 0;
  IF NOT coalesce(pg_has_role('view_keeper', kept.owner, 'MEMBER'), false) THEN
    RAISE insufficient_privilege USING MESSAGE = format(
      'view_keeper may not act for %s: `make init` lets it, unless that is a superuser', coalesce(kept.owner, 'its owner'));
  END IF;
  FOREACH statement IN ARRAY kept.definition LOOP
    EXECUTE statement;
  END LOOP;
END
$$;

-- Read the rows of a materialized view that was made again; where that fails, it stays empty.
CREATE OR REPLACE FUNCTION view_keeper.fill(root text, name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM FROM view_keeper.dropped
  WHERE transaction_id = pg_current_xact_id() AND dropped_with = root AND object = name AND is_filled;
  IF FOUND THEN
    EXECUTE 'REFRESH ' || name;
  END IF;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING '% is made again, and empty until its owner refreshes it: %', name, SQLERRM;
END
$$;

-- Forget what is there again, on the view that now has the name, and return the rest.
CREATE OR REPLACE FUNCTION view_keeper.settle(root text, view regclass, reasons jsonb) RETURNS SETOF view_keeper.dropped
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  DELETE FROM view_keeper.dropped
  WHERE transaction_id = pg_current_xact_id() AND dropped_with = root
    AND (level = 0 OR object IN (SELECT d.object FROM view_keeper.dependents(view) AS d));
  UPDATE view_keeper.dropped SET reason = reasons ->> object
  WHERE transaction_id = pg_current_xact_id() AND dropped_with = root AND reasons ? object;
  RETURN QUERY SELECT * FROM view_keeper.dropped
  WHERE transaction_id = pg_current_xact_id() AND dropped_with = root ORDER BY level, object;
END
$$;

-- Make what is kept of a view's dependents again, in order, with their rows if asked to. Returns what could not be.
CREATE OR REPLACE FUNCTION view_keeper.restore(root text, fill boolean) RETURNS SETOF view_keeper.dropped
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  kept record;
  statement text;
  reasons jsonb := '{}';
BEGIN
  FOR kept IN
    SELECT * FROM view_keeper.dropped
    WHERE transaction_id = pg_current_xact_id() AND dropped_with = root AND reason IS NULL
    ORDER BY level, object
  LOOP
    BEGIN
      IF kept.level = 0 AND to_regclass(root) IS NULL THEN
        NULL;
      ELSIF kept.level = 0 OR kept.owner = current_user THEN
        FOREACH statement IN ARRAY kept.definition LOOP
          BEGIN
            EXECUTE statement;
          EXCEPTION WHEN undefined_column THEN  -- a grant on one that is gone
            IF kept.level > 0 THEN
              RAISE;
            END IF;
          END;
        END LOOP;
      ELSE
        PERFORM view_keeper.make_again(root, kept.object);
      END IF;
      IF fill AND kept.is_filled THEN
        PERFORM view_keeper.fill(root, kept.object);
      END IF;
    EXCEPTION  -- what the change breaks; a lock, a full disk and so on stop everything
      WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception
        OR dependent_objects_still_exist OR program_limit_exceeded THEN
        reasons := reasons || jsonb_build_object(kept.object, SQLERRM);
    END;
  END LOOP;
  RETURN QUERY SELECT * FROM view_keeper.settle(root, to_regclass(root), reasons);
END
$$;

-- Whom view_keeper acts for: everyone who has built on a view of sqlmesh_user, but superusers.
DO $$
DECLARE
  builder text;
BEGIN
  FOR builder IN
    SELECT DISTINCT r.rolname
    FROM pg_class AS root
    CROSS JOIN LATERAL view_keeper.dependents(root.oid::regclass) AS d
    JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('v', 'm')
    JOIN pg_roles AS r ON r.oid = c.relowner
    WHERE root.relkind = 'v' AND root.relowner = to_regrole('sqlmesh_user')
      AND r.rolname <> 'sqlmesh_user' AND NOT r.rolsuper AND NOT pg_has_role('view_keeper', r.oid, 'MEMBER')
  LOOP
    BEGIN
      EXECUTE format('GRANT %I TO view_keeper', builder);
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE NOTICE 'skipped: view_keeper may not act for %: their views on the marts stop a change of columns', builder;
    END;
  END LOOP;
END
$$;

DO $$
DECLARE
  thing regprocedure;
BEGIN
  ALTER TABLE view_keeper.dropped OWNER TO view_keeper;
  FOR thing IN SELECT oid FROM pg_proc WHERE pronamespace = 'view_keeper'::regnamespace LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO view_keeper', thing);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', thing);
  END LOOP;
END
$$;
GRANT USAGE ON SCHEMA view_keeper TO sqlmesh_user;
GRANT EXECUTE ON FUNCTION
  view_keeper.dependents(regclass), view_keeper.keep(regclass), view_keeper.make_again(text, text),
  view_keeper.fill(text, text), view_keeper.settle(text, regclass, jsonb), view_keeper.restore(text, boolean)
TO sqlmesh_user;
GRANT SELECT ON view_keeper.dropped TO sqlmesh_user;
