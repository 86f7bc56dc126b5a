/** `lxstow janitor`: finds and removes the leftovers of one host now. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Config } from '../../contract/schemas.ts';
import { Leases } from '../../coordination/leases.ts';
import { type Finding, Janitor } from '../../janitor/janitor.ts';
import { LxdClient } from '../../lxd/connection/client.ts';
import { Bucket } from '../../nats/bucket/bucket.ts';
import { connectNats } from '../../nats/connection.ts';
import { verifySetUp } from '../../nats/setup.ts';
import { checkpointsBucket, leasesBucket } from '../../nats/streams.ts';
import { retrying } from '../../storage/retrying.ts';
import { createS3Store } from '../../storage/s3/s3.ts';
import type { Log } from '../../telemetry/logger.ts';
import { type Format, print } from '../terminal/output.ts';
import { duration } from '../terminal/table.ts';

interface JanitorCommand {
  config: Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  stop: AbortSignal;
  dryRun: boolean;
  format: Format;
}

/** How long to wait while a worker's janitor is running. */
const patienceMs = 60_000;

/** Prints the findings. Returns 1 when something could not be searched or removed. */
export async function runJanitorCommand({ config, env, log, stop, dryRun, format }: JanitorCommand): Promise<number> {
  const { remote, leaseTtlMs } = config.worker;
  using s3 = createS3Store(config.s3);
  const store = retrying(s3, {
    attempts: config.s3.attempts,
    onRetry: (call, error) => log.warn('retrying the object store', { call, error }),
  });
  using lxd = new LxdClient(remote, config.remotes[remote] ?? {}, env);
  await using nats = await connectNats(config.nats, 'lxstow janitor', log);
  await verifySetUp(nats);
  const bucket = new Bucket(nats, leasesBucket);
  const janitor = new Janitor({
    worker: `janitor-${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`,
    config,
    nats,
    lxd,
    store,
    leases: new Leases(bucket, leaseTtlMs),
    leasesBucket: bucket,
    checkpoints: new Bucket(nats, checkpointsBucket),
    log,
  });
  const findings = await janitor.run({ signal: stop, dryRun, patienceMs });
  show(findings, remote, format);
  return findings.some(({ action }) => action.startsWith('failed')) ? 1 : 0;
}

function show(findings: Finding[], remote: string, format: Format): void {
  const rows = findings.map(({ kind, what, where, age, operation, action }) => [
    kind,
    what,
    where,
    age === null ? '-' : duration(age),
    operation ?? '-',
    action,
  ]);
  print(format, {
    heading: ['KIND', 'WHAT', 'WHERE', 'AGE', 'OPERATION', 'ACTION'],
    rows,
    raw: findings,
    empty: `nothing is left over on host ${remote}`,
  });
  if (format !== 'table' || findings.length === 0) return;
  const counts = new Map<string, number>();
  for (const { action } of findings) {
    const [word = ''] = action.split(':');
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  process.stdout.write(`${[...counts].map(([word, count]) => `${count} ${word}`).join(', ')}\n`);
}
