-- Runs in the guest: tables, indexes, transactions and rollback with known answers.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER CHECK (balance >= 0));
CREATE TABLE transfer (source INTEGER, target INTEGER, amount INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO account SELECT i, 'owner ' || (i * 7919 % 20011), 1000 FROM n;
COMMIT;
CREATE INDEX by_owner ON account (owner);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO transfer SELECT i * 13 % 20000 + 1, i * 31 % 20000 + 1, i % 97 FROM n;
UPDATE account SET balance = balance
    - coalesce((SELECT sum(amount) FROM transfer WHERE source = account.id), 0)
    + coalesce((SELECT sum(amount) FROM transfer WHERE target = account.id), 0)
WHERE id <= 500;
COMMIT;
BEGIN;
DELETE FROM account WHERE id % 2 = 0;
ROLLBACK;
SELECT 'rows', count(*), sum(balance) FROM account;
SELECT 'owner', id, balance FROM account WHERE owner = 'owner 12345';
SELECT 'join', count(*), sum(t.amount) FROM transfer t JOIN account a ON a.id = t.source WHERE a.balance > 990;
SELECT 'groups', count(*) FROM (SELECT substr(owner, -2) AS tail, avg(balance) FROM account GROUP BY tail);
PRAGMA wal_checkpoint(TRUNCATE);
PRAGMA integrity_check;
