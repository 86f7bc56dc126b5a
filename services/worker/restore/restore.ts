/**
 * Restores a backup. LXD imports it under a name that only this operation can have; taking the wanted name is the last step. Nothing
 * else is stopped, renamed, changed or deleted, but the instance that `replace` was asked for (docs/adr/0030-own-names.md).
 */
import { TarHead } from '../../archive/tar/tarHead.ts';
import { manifestKey } from '../../backups/keys.ts';
import { parseManifest } from '../../backups/manifest.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Address, BackupAddress, Manifest } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { Forward } from '../../lxd/forward.ts';
import {
  deleteInstance,
  ensureProfiles,
  type LxdInstance,
  nameOf,
  poolDriver,
  projectExists,
} from '../../lxd/instances.ts';
import { handedBackConfig, identifierOf, isMarked, keptConfig } from '../../lxd/marks.ts';
import { importedName, parseOwnName, renamed } from '../../lxd/ownNames.ts';
import { claimKey, removal } from '../../nats/bucketKeys.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { BlockedName, importArchive, settleImport } from './importArchive.ts';
import { assertMayBring } from './limits.ts';
import { changeWhatMay, prepare } from './prepare.ts';
import { assertReplaceable, finishReplace, giveUp, swap, takeName, takenAwayError } from './replace.ts';
import { type Here, look, type Restoring, restoringOf } from './restoring.ts';
import { handBackElsewhere, walkBack } from './walkBack.ts';

/** LXD has not been seen to leave more than one volume. */
const mostNames = 4;
/** LXD's import cannot be cancelled: so long one that must be undone is waited for. */
const undoMs = 3_600_000;

export async function runRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const restoring = restoringOf(job, attempt, tools);
  const { checkpoint } = attempt.operation;
  attempt.assertOwned();
  attempt.report({ stage: 'restoring' });
  if (checkpoint?.failed !== undefined) await giveUp(restoring, checkpoint.failed);
  if (!checkpoint?.swapped) {
    const here = await bringIn(restoring);
    if (here.replaced || (job.body.replace && here.target && !here.isIn)) await swap(restoring, here);
    else await takeName(restoring, here);
  }
  await finish(restoring);
}

/** Imports the backup, unless an attempt before this one, whose worker died, has. */
async function bringIn(restoring: Restoring): Promise<Here> {
  const { job, attempt, tools, source, target } = restoring;
  const { signal } = attempt;
  if (attempt.operation.checkpoint?.importing) await settleImport(restoring.imported, attempt, tools, signal);
  let here = await look(restoring, signal);
  if (!here.isIn && !here.replaced) await assertTargetFree(restoring, here);
  if (
    here.imported &&
    here.imported.status !== 'Stopped' &&
    !isMarked('restored', attempt.operation.id)(here.imported)
  ) {
    // LXD was started again before it could be kept from starting what it had just imported: that is not what was stored any more.
    await deleteInstance(tools.lxd, restoring.imported, {
      signal,
      idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs,
    });
    here = { ...here, imported: undefined };
  }
  if (!here.isIn && !here.imported) {
    if (here.replaced) throw goneError(restoring);
    await claimForReading(source, attempt, tools);
    const manifest = await readManifest(source, tools, signal);
    await checkTarget(target, job.body.pool, manifest, tools, signal);
    await assertMayBring(restoring, manifest);
    const server = job.body.anyway ? undefined : await Forward.of(tools.lxd, signal);
    server?.assertTakes(manifest.instance);
    const profiles = await ensureProfiles(tools.lxd, target.project, manifest.instance.profiles, signal);
    if (profiles.made.length > 0) attempt.log.info('profiles made', { profiles: profiles.made });
    for (const name of profiles.different)
      attempt.warn(`profile ${name} is not what it was when the backup was made; it was left as it is`);
    await importUnderFreeName(restoring, manifest, server);
    here = await look(restoring, signal);
  }
  if (!here.isIn && here.imported && !attempt.operation.checkpoint?.prepared) {
    // Unless an attempt before has changed them, they are still the archive's.
    if (!isMarked('restored', attempt.operation.id)(here.imported))
      await attempt.checkpoint({ kept: keptConfig(here.imported) });
    await prepare(restoring, here.imported);
  }
  if (!here.isIn && !here.imported) throw goneError(restoring);
  return here;
}

/** Imports under the next name of ours where LXD has left a volume under the one before. */
async function importUnderFreeName(restoring: Restoring, manifest: Manifest, server?: Forward): Promise<void> {
  const { job, attempt, tools, source } = restoring;
  for (;;) {
    const head = new TarHead((format) => server?.assertReads(format));
    try {
      const to = restoring.imported;
      return await importArchive({ to, from: source, pool: job.body.pool, manifest, head }, attempt, tools);
    } catch (error) {
      const importName = (attempt.operation.checkpoint?.importName ?? 1) + 1;
      if (!(error instanceof BlockedName) || importName > mostNames) throw error;
      attempt.warn(error.message);
      await attempt.checkpoint({ importName });
      restoring.imported = renamed(restoring.imported, importedName(attempt.operation.id, importName));
    }
  }
}

function goneError({ imported }: Restoring): LxstowError {
  return new LxstowError(
    'conflict',
    `${nameOf(imported)}, which was restored, is gone: somebody renamed or deleted it`,
  );
}

/** Throws conflict where an instance has the name that is not to give way, or cannot. */
async function assertTargetFree({ job, attempt, target, tools }: Restoring, here: Here): Promise<void> {
  const own = parseOwnName(target.instance);
  if (own)
    throw new LxstowError('bad-request', `the name ${target.instance} is for lxstow's own work: choose another one`);
  if (!here.target) return;
  if (job.body.replace) {
    assertReplaceable(here.target, nameOf(target));
    const { checkpoint } = attempt.operation;
    if (checkpoint?.givingWay === undefined && !checkpoint?.importing)
      await attempt.checkpoint({ givingWay: identifierOf(here.target) });
    return;
  }
  throw new LxstowError(
    'conflict',
    `instance ${nameOf(target)} already exists on ${tools.config.worker.remote}; it was not touched. Restore under another name, or with replace=true`,
  );
}

/** Makes the instance its owner's, and removes what has given way to it. */
async function finish(restoring: Restoring): Promise<void> {
  const { attempt } = restoring;
  const here = await look(restoring, attempt.signal);
  const { checkpoint } = attempt.operation;
  const isElsewhere = !here.isIn && (await handBackElsewhere(restoring, attempt.held));
  if (!here.target || isElsewhere || (!here.isIn && !checkpoint?.handedOver))
    throw takenAwayError(restoring, here.replaced !== undefined);
  if (here.isIn) {
    await handOver(restoring, here.target).catch((error) => {
      const isTaken = isCode(error, 'not-found') || isCode(error, 'conflict');
      throw isTaken ? takenAwayError(restoring, here.replaced !== undefined) : error;
    });
  }
  if (here.replaced) await finishReplace(restoring);
  else if (checkpoint?.replaced && here.isIn) await handBackElsewhere(restoring, attempt.held);
}

/** Gives the restored instance its own configuration back, as the last change. */
async function handOver(restoring: Restoring, { status }: LxdInstance): Promise<void> {
  const { kept = {} } = restoring.attempt.operation.checkpoint ?? {};
  await restoring.attempt.checkpoint({ handedOver: true });
  await changeWhatMay(restoring, restoring.target, handedBackConfig('restored', kept, status !== 'Stopped'));
}

/** Removes what this operation's attempts have half made, and puts back what was to give way. An instance that was there before is not touched. */
export async function undoRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { operation } = attempt;
  const { checkpoint } = operation;
  // Once the restored one is in service nothing walks back.
  if (!checkpoint?.importing || checkpoint.swapped || isCode(attempt.signal.reason, 'lease-lost')) return;
  const restoring = restoringOf(job, attempt, tools);
  const signal = AbortSignal.any([AbortSignal.timeout(undoMs), attempt.held]);
  try {
    if (checkpoint.replaced) await walkBack(restoring);
  } finally {
    await removeImported(restoring, signal);
  }
}

/** Removes what was imported, unless it has its name already: it does not start, say, and that is for its owner to mend. */
async function removeImported(restoring: Restoring, signal: AbortSignal): Promise<void> {
  const { job, attempt, tools, imported } = restoring;
  const { log } = attempt;
  await settleImport(imported, attempt, tools, signal);
  const here = await look(restoring, signal);
  if (here.isIn && here.target) return handOver(restoring, here.target);
  if (!here.imported) return;
  if (job.body.replace && !here.target && !here.replaced)
    return void log.warn('what was restored is kept: what it was to replace is gone', { instance: imported.instance });
  await deleteInstance(tools.lxd, imported, { signal, idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs });
  log.info('what was restored is removed', { instance: imported.instance });
}

/** Keeps the backup from being deleted. Both sides put down their claim first and look for the other's then: one of them sees it. */
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

/** Looks for faults that LXD finds only after the whole upload. */
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
