/** Brings a backup into LXD, under a name that only its restore has. */

import { TarHead } from '../../archive/tar/tarHead.ts';
import { readManifest } from '../../backups/manifest.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import { type Address, type BackupAddress, check, type Manifest } from '../../contract/schemas.ts';
import { Forward } from '../../lxd/forward.ts';
import { deleteInstance } from '../../lxd/instanceChanges.ts';
import { type LxdInstance, nameOf, poolDriver, projectExists, readServer } from '../../lxd/instances.ts';
import { identifierOf, isMarked, keptConfig } from '../../lxd/marks.ts';
import { importedName, parseOwnName, renamed } from '../../lxd/ownNames.ts';
import { ensureProfiles, knownProfiles } from '../../lxd/profiles.ts';
import { claimKey, removal } from '../../nats/bucketKeys.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { BlockedName, importArchive, settleImport } from './importArchive.ts';
import { assertMayBring } from './mayBring.ts';
import { prepare } from './prepare.ts';
import { assertReplaceable, assertSame } from './replace.ts';
import { findInstances, type InstancesFound, type Restoring, waitingOf } from './restoring.ts';

/** Names to try. LXD was never seen to leave more than one volume behind. */
const mostNames = 4;
/** Imports the backup, unless an earlier attempt has done so before its worker died. Returns the instances that exist then. */
export async function bringIn(restoring: Restoring): Promise<InstancesFound> {
  const { job, attempt, tools, source, target } = restoring;
  const { signal } = attempt;
  if (attempt.operation.checkpoint?.importing && (await settleImport(restoring.imported, attempt, tools, signal)))
    await attempt.checkpoint({ importedWhole: true });
  let here = await findInstances(restoring, signal);
  if (!here.targetIsOurs && !here.replaced) await assertTargetFree(restoring, here);
  if (here.imported && (await isUnfit(here.imported, restoring))) {
    await deleteInstance(tools.lxd, restoring.imported, waitingOf(restoring, signal));
    here = { ...here, imported: undefined };
  }
  if (!here.targetIsOurs && !here.imported) {
    if (here.replaced) throw goneError(restoring);
    await claimForReading(source, attempt, tools);
    const { manifest } = await readManifest(tools.store, tools.config.s3.prefix, source, signal);
    check('names.json#/$defs/namesInArchive', manifest.instance, `the backup of ${source.instance}`);
    await checkTarget(target, job.body.pool, manifest, tools, signal);
    await assertMayBring(restoring, manifest);
    const server = job.body.anyway ? undefined : await Forward.of(tools.lxd, signal);
    server?.assertTakes(manifest.instance);
    const { profiles: before = [] } = attempt.operation.checkpoint ?? {};
    const profiles = await ensureProfiles(tools.lxd, target.project, manifest.instance.profiles, signal, (made) =>
      attempt.checkpoint({ profiles: [...before, ...made] }),
    );
    if (profiles.made.length > 0) attempt.log.info('profiles made', { profiles: profiles.made });
    for (const name of profiles.different)
      attempt.warn(`profile ${name} differs from the backup's; it was left as it is`);
    await importUnderFreeName(restoring, manifest, server).catch(async (error) => {
      throw await unlessProfileGone(error, restoring, manifest);
    });
    await attempt.checkpoint({ importedWhole: true });
    here = await findInstances(restoring, signal);
  }
  if (!here.targetIsOurs && here.imported && !attempt.operation.checkpoint?.prepared) {
    // Unless an earlier attempt has changed the keys, they are the archive's.
    if (!isMarked('restored', attempt.operation.id)(here.imported))
      await attempt.checkpoint({ kept: keptConfig(here.imported) });
    await prepare(restoring, here.imported, here.target);
  }
  if (!here.targetIsOurs && !here.imported) throw goneError(restoring);
  return here;
}

/**
 * Whether an instance that an earlier attempt imported may differ from the backup. An LXD that ends during an import may leave an instance without a volume, or with only some of its
 * snapshots, so lxstow must have seen the import succeed. LXD's process id alone does not tell that LXD was restarted: in a container it may be the same each time. When LXD starts
 * again, it may start an instance that it had just imported. Once we have marked an instance, it is complete, and LXD does not start it.
 */
async function isUnfit(imported: LxdInstance, { attempt, tools }: Restoring): Promise<boolean> {
  if (isMarked('restored', attempt.operation.id)(imported)) return false;
  const { importedWhole, lxdPid } = attempt.operation.checkpoint ?? {};
  if (!importedWhole || imported.status !== 'Stopped') return true;
  return lxdPid !== undefined && lxdPid !== (await readServer(tools.lxd, attempt.signal)).environment.server_pid;
}

/** Imports under the first of our names that is not blocked by a volume that LXD left behind. */
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

/** Returns the error, or a retryable one if a profile is gone: another restore may have created it, failed, and deleted it again. */
async function unlessProfileGone(
  error: unknown,
  { attempt, tools, target }: Restoring,
  { instance }: Manifest,
): Promise<unknown> {
  if (!isCode(error, 'lxd-refused')) return error;
  const names = instance.profiles.map(({ name }) => name);
  const known = await knownProfiles(tools.lxd, target.project, names, attempt.signal);
  const gone = names.find((name) => !known.includes(name));
  if (gone === undefined) return error;
  return new LxstowError('lxd-failed', `profile ${gone} was deleted during the import`, { cause: error });
}

function goneError({ imported }: Restoring): LxstowError {
  return new LxstowError(
    'conflict',
    `${nameOf(imported)}, which was restored, is gone: another client renamed or deleted it`,
  );
}

/** Throws conflict if an instance has the name and is not to be replaced, or cannot be replaced. */
async function assertTargetFree({ job, attempt, target, tools }: Restoring, here: InstancesFound): Promise<void> {
  const own = parseOwnName(target.instance);
  if (own)
    throw new LxstowError('bad-request', `the name ${target.instance} is reserved for lxstow: choose another one`);
  if (here.target && job.body.replace) assertReplaceable(here.target, nameOf(target));
  const { checkpoint } = attempt.operation;
  if (job.body.replace && !checkpoint?.importing) {
    if (checkpoint?.givingWay === undefined)
      await attempt.checkpoint({ givingWay: here.target ? identifierOf(here.target) : '' });
    else if (here.target) assertSame(here.target, checkpoint.givingWay, target);
  }
  if (!here.target || job.body.replace) return;
  throw new LxstowError(
    'conflict',
    `instance ${nameOf(target)} already exists on ${tools.config.worker.remote}; it was not touched. Restore under another name, or with replace=true`,
  );
}

/** Prevents the backup from being deleted. Reader and deleter each write their claim before they look for the other's, so at least one of them sees the other. */
async function claimForReading(source: BackupAddress, attempt: Attempt, { leases }: Tools): Promise<void> {
  const { id, attempt: count } = attempt.operation;
  const refusal = `backup ${source.instance}/${source.backup} is being deleted`;
  await attempt.claim(claimKey(source, source.backup, `${id}-${count}`), refusal);
  if (await leases.holder(claimKey(source, source.backup, removal))) throw new LxstowError('instance-busy', refusal);
}

/** Throws for problems that LXD would report only after the whole upload: a missing project or pool, or a pool with another driver. */
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
      `the backup is in ${instance.driver}'s own format, but pool ${wanted} uses ${driver}: choose a pool that uses ${instance.driver}`,
    );
  }
}
