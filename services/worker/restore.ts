/** Restores a backup: every part is proved good before LXD gets a byte of it, and no instance that exists is touched. */
import { IdleWatch } from '../archive/idleWatch.ts';
import { parseManifest } from '../archive/manifest.ts';
import { inPieces } from '../archive/pace.ts';
import { writeTar } from '../archive/reader.ts';
import type { Address, BackupAddress, Manifest } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import { openImport } from '../lxd/backups.ts';
import {
  deleteInstance,
  ensureProfiles,
  instanceExists,
  instanceUuid,
  nameOf,
  poolDriver,
  projectExists,
  runningImport,
  setState,
} from '../lxd/instances.ts';
import { type Attempt, bytesPerSecond, cleanupSignal } from '../operations/attempt.ts';
import type { JobOf } from '../queue/jobs.ts';
import { claimKey, removal } from '../queue/topology.ts';
import { checkArchive, readArchive } from '../storage/archives.ts';
import { archiveKey, manifestKey } from '../storage/keys.ts';
import { settleReplace, swapIn, temporaryOf, undoSwap } from './replace.ts';
import type { Tools } from './tools.ts';

/** LXD's import cannot be cancelled: so long one that must be undone is waited for. */
const undoMs = 3_600_000;

export async function runRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { lxd, config } = tools;
  const { signal, operation } = attempt;
  const { pool, start = false, replace = false } = job.body;
  const source: BackupAddress = { ...job.address, ...job.body.source, backup: job.body.backup };
  const waiting = { signal, idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  attempt.report({ stage: 'restoring' });

  await claimForReading(source, attempt, tools);
  const manifest = await readManifest(source, tools, signal);
  const replacing = replace && (await settleReplace(job.address, attempt, tools));
  if (replacing === 'done') return;
  const target = replacing ? temporaryOf(job.address, operation.id) : job.address;
  if (!(await restoredBefore(target, manifest, attempt, tools))) {
    await checkTarget(target, pool, manifest, tools, signal);
    const made = await ensureProfiles(lxd, target.project, manifest.instance.profiles, signal);
    if (made.length > 0) attempt.log.info('profiles made', { profiles: made });
    await transfer(target, source, pool, manifest, attempt, tools);
  }
  await attempt.checkpoint({ imported: true });
  if (replacing) return swapIn(job.address, start, attempt, tools);
  if (!start) return;
  attempt.report({ stage: 'starting' });
  try {
    await setState(lxd, target, 'start', waiting);
  } catch (error) {
    if (!(error instanceof LxstowError) || signal.aborted) throw error;
    throw new LxstowError(error.code, `instance ${nameOf(target)} is restored, but does not start: ${error.message}`, {
      cause: error,
    });
  }
}

/** Removes what this operation's attempts have half made. An instance that was there before is not touched. */
export async function undoRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { lxd, config } = tools;
  const { operation, log } = attempt;
  if (!operation.checkpoint?.importing || isCode(attempt.signal.reason, 'lease-lost')) return;
  if (job.body.replace) await undoSwap(job.address, attempt, tools);
  const { restored, imported } = operation.checkpoint;
  // Whole, but it does not start, say: that is for its owner to mend.
  if (imported && !job.body.replace && !isCode(attempt.signal.reason, 'cancelled')) return;
  const target = { ...job.address, instance: operation.checkpoint.target ?? job.address.instance };
  const signal = AbortSignal.timeout(undoMs);
  const waiting = { signal, idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  const running = await runningImport(lxd, target, signal);
  if (running) {
    await lxd.wait(running, { signal, idleTimeoutMs: Number.POSITIVE_INFINITY }).catch((error) => {
      if (!isCode(error, 'lxd-failed')) throw error;
    });
  }
  const uuid = await instanceUuid(lxd, target, cleanupSignal());
  if (uuid === undefined) return;
  if (uuid !== restored || uuid === '')
    return void log.warn('instance left as it is: it is not the one being restored', { instance: target.instance });
  await deleteInstance(lxd, target, waiting);
  log.info('half-restored instance removed', { instance: target.instance });
}

async function transfer(
  to: Address,
  from: BackupAddress,
  pool: string | undefined,
  { archive, instance }: Manifest,
  attempt: Attempt,
  { lxd, store, threads, bandwidth, memory, config, metrics }: Tools,
): Promise<void> {
  const idleTimeoutMs = config.worker.lxdIdleTimeoutMs;
  using idle = new IdleWatch(idleTimeoutMs, `the import of ${nameOf(to)}`);
  const moving = AbortSignal.any([attempt.signal, idle.signal]);
  const begun = performance.now();
  let sent = 0;
  const key = archiveKey(config.s3.prefix, from);
  await checkArchive(archive, from, key, store, attempt.signal);
  await attempt.checkpoint({ importing: true, target: to.instance, restored: instance.config['volatile.uuid'] ?? '' });
  attempt.assertOwned();
  const lxdImport = openImport(lxd, to, pool, moving);
  try {
    await writeTar(archive, lxdImport.request, {
      fetch: async (start, into) =>
        void (await inPieces(bandwidth, into, { signal: moving }, async (piece, at) => {
          await readArchive(archive, from, key, store, start + at, piece, moving);
          return piece.length;
        })),
      threads,
      memory,
      onWaiting: (waiting) => idle.watch(waiting),
      onProgress: (bytes) => {
        metrics.sent.inc({ peer: 'lxd' }, bytes - sent);
        sent = bytes;
        const rate = bytesPerSecond(bytes, begun);
        attempt.report({ stage: 'restoring', bytes_done: bytes, bytes_total: archive.rawSize, bytes_per_second: rate });
      },
      signal: moving,
    });
    attempt.assertOwned();
    lxdImport.request.end();
  } catch (error) {
    lxdImport.request.destroy();
    throw lxd.failure(error, moving);
  }
  attempt.report({ stage: 'unpacking', bytes_done: archive.rawSize, bytes_total: archive.rawSize });
  try {
    // LXD has been seen to take everything and never answer.
    idle.watch(true);
    await lxdImport.finish({ signal: moving, idleTimeoutMs }, () => idle.watch(false));
  } catch (error) {
    // LXD killed while it imported leaves a volume without an instance: no further try gets past it.
    const blocked = error instanceof LxstowError && error.message.includes('already exists on target');
    if (!blocked || (await instanceExists(lxd, to, attempt.signal))) throw error;
    throw new LxstowError(
      'conflict',
      `${error.message}: a volume named ${to.instance} is on the storage pool without its instance, left by an LXD that was killed while it imported. Remove the volume, or restore under another name`,
      { cause: error },
    );
  }
}

/** So that nobody deletes it meanwhile. Both sides put down their claim first and look for the other's then: one of them sees it. */
async function claimForReading(source: BackupAddress, attempt: Attempt, { leases }: Tools): Promise<void> {
  const { id, attempt: count } = attempt.operation;
  const refusal = `backup ${source.instance}/${source.backup} is being deleted`;
  await attempt.claim(claimKey(source, source.backup, `${id}-${count}`), refusal);
  if (await leases.holder(claimKey(source, source.backup, removal))) throw new LxstowError('instance-busy', refusal);
}

export async function readManifest(
  source: BackupAddress,
  { store, config }: Pick<Tools, 'store' | 'config'>,
  signal: AbortSignal,
): Promise<Manifest> {
  try {
    return parseManifest((await store.read(manifestKey(config.s3.prefix, source), signal)).body, source);
  } catch (error) {
    if (isCode(error, 'not-found'))
      throw new LxstowError('not-found', `backup ${source.instance}/${source.backup} does not exist`, { cause: error });
    throw error;
  }
}

/**
 * True when an attempt before this one, whose worker died, got the instance in. Throws conflict when an instance of that name is there
 * that this operation did not make: it stays as it is.
 */
async function restoredBefore(
  target: Address,
  manifest: Manifest,
  attempt: Attempt,
  { lxd, config }: Tools,
): Promise<boolean> {
  const { signal } = attempt;
  const begun = attempt.operation.checkpoint?.importing === true;
  if (begun) {
    const running = await runningImport(lxd, target, signal);
    if (running) {
      attempt.log.info('waiting for the import of an earlier attempt', { lxdOperation: running });
      await lxd.wait(running, { signal, idleTimeoutMs: Number.POSITIVE_INFINITY }).catch((error) => {
        if (!isCode(error, 'lxd-failed')) throw error;
      });
    }
  }
  const uuid = await instanceUuid(lxd, target, signal);
  if (uuid === undefined) return false;
  if (begun && uuid !== '' && uuid === manifest.instance.config['volatile.uuid']) return true;
  throw new LxstowError(
    'conflict',
    `instance ${nameOf(target)} already exists on ${config.worker.remote}; it was not touched. Restore under another name, or with replace=true`,
  );
}

/** LXD finds these faults only after the whole upload, or harms something: so they are looked for before. */
async function checkTarget(
  target: Address,
  pool: string | undefined,
  { instance, archive }: Manifest,
  { lxd }: Tools,
  signal: AbortSignal,
): Promise<void> {
  if (!(await projectExists(lxd, target.project, signal)))
    throw new LxstowError('not-found', `project ${target.project} does not exist on ${lxd.remote}`);
  const wanted = pool ?? (archive.optimized ? instance.pool : undefined);
  if (!wanted) return;
  const driver = await poolDriver(lxd, wanted, signal);
  if (driver === undefined)
    throw new LxstowError('not-found', `storage pool ${wanted} does not exist on ${lxd.remote}`);
  if (archive.optimized && driver !== instance.driver) {
    throw new LxstowError(
      'bad-request',
      `the backup is in ${instance.driver}'s own format; pool ${wanted} is ${driver}: choose a pool of ${instance.driver}`,
    );
  }
}
