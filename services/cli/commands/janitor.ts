/** `lxstow janitor`: looks for leftovers of one remote and removes them, now. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Config } from '../../contract.ts';
import type { Log } from '../../logger.ts';
import { LxdClient } from '../../lxd/client.ts';
import { Bucket } from '../../queue/bucket.ts';
import { connectNats } from '../../queue/connection.ts';
import { Leases } from '../../queue/leases.ts';
import { checkpointsBucket, leasesBucket, verifySetUp } from '../../queue/topology.ts';
import { retrying } from '../../storage/retrying.ts';
import { createS3Store } from '../../storage/s3.ts';
import { type Finding, Janitor } from '../../worker/janitor.ts';
import { duration, table } from '../table.ts';

export interface JanitorCommand {
  config: Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  stop: AbortSignal;
  dryRun: boolean;
  format: 'table' | 'json';
}

/** A worker's own run is over by then. */
const patienceMs = 60_000;

/** Prints the findings. Returns the exit status: 1 when something could not be looked through or removed. */
export async function runJanitorCommand({ config, env, log, stop, dryRun, format }: JanitorCommand): Promise<number> {
  const { remote, leaseTtlMs } = config.worker;
  using s3 = createS3Store(config.s3);
  const store = retrying(s3, {
    attempts: config.s3.attempts,
    onRetry: (call, error) => log.warn('the object store is tried again', { call, error }),
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
  process.stdout.write(format === 'json' ? `${JSON.stringify(findings, null, 2)}\n` : forPeople(findings, remote));
  return findings.some(({ action }) => action.startsWith('failed')) ? 1 : 0;
}

function forPeople(findings: Finding[], remote: string): string {
  if (findings.length === 0) return `nothing is left over on ${remote}\n`;
  const rows = findings.map(({ kind, what, where, age, operation, action }) => [
    kind,
    what,
    where,
    age === null ? '-' : duration(age),
    operation ?? '-',
    action,
  ]);
  const counts = new Map<string, number>();
  for (const { action } of findings) {
    const [word = ''] = action.split(':');
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const sum = [...counts].map(([word, count]) => `${count} ${word}`).join(', ');
  return `${table(['KIND', 'WHAT', 'WHERE', 'AGE', 'OPERATION', 'ACTION'], rows)}${sum}\n`;
}
