/** What clients that are restricted to projects may upload or restore (docs/security.md). It is judged before a byte is stored, or sent to LXD. */
import { ConfigFiles } from '../../archive/tar/configFiles.ts';
import type { LxdIndex } from '../../archive/tar/indexYaml.ts';
import { type ReadOptions, readConfigFile } from '../../archive/tar/lxdIndex.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Address, Config, Manifest } from '../../contract/schemas.ts';
import type { LookUpAnswer } from '../../hosts/lookUp.ts';
import type { Judge } from '../../intake/intake.ts';
import { forbiddenFor, forbiddenIn, type Limits, refusalOf } from '../../lxd/restrictions.ts';
import type { Client } from './apiClient.ts';

/** True for a client that may upload and restore only what LXD accepts in restricted projects. */
export function isLimited(client: Client, { restrictedRestores }: Config['gateway']): boolean {
  return client.projects !== undefined && restrictedRestores === 'refuse';
}

/** The project's limits from a worker's answer; undefined when no worker was asked, or none could answer. */
export function limitsIn(found: LookUpAnswer | undefined): Limits | undefined {
  if (found?.restricted === undefined || !found.profiles) return undefined;
  const { restricted, sharedProfiles = false, profiles } = found;
  return { restricted, sharedProfiles, profiles };
}

/** Throws forbidden for a backup that a limited client may not restore. Without `limits` the worker judges. */
export function assertContentAllowed({ backup, instance }: Manifest, limits: Limits | undefined): void {
  const forbidden = limits ? forbiddenFor(instance, limits) : [];
  if (forbidden.length > 0)
    throw new LxstowError('forbidden', refusalOf(`the backup of ${backup.instance}`, forbidden));
}

const unknown: Limits = { restricted: false, profiles: [] };

/** Judges an archive that a limited client sends. Throws forbidden at once for what its index says. */
export function judgeOf(
  index: LxdIndex,
  { instance }: Pick<Address, 'instance'>,
  limits: Limits = unknown,
  options: Pick<ReadOptions, 'inTurn'> = {},
): Judge {
  const refuse = (why: string) =>
    new LxstowError(
      'forbidden',
      `the archive of ${instance} cannot be checked: ${why}. Clients that are restricted to projects may upload only archives that LXD has exported, and that are not optimized (gateway.restrictedRestores)`,
    );
  if (index.optimized) throw refuse('it is optimized, so it contains a file system');
  const said = [
    ...index.described.flatMap(forbiddenIn),
    // Profiles that the project already has are judged, too, because a restore to another project would create them.
    ...forbiddenFor(index.instance, unknown),
  ];
  const what = `the archive of ${instance}`;
  if (!limits.restricted && said.length > 0) throw new LxstowError('forbidden', refusalOf(what, [...new Set(said)]));
  const files = new ConfigFiles(refuse);
  return {
    onEntry: files.onEntry,
    async finish() {
      if (!files.found) throw refuse('it has no backup.yaml');
      const described = await readConfigFile(files.found, options);
      // In a restricted project, LXD judges the index only, so backup.yaml may contain nothing more.
      const more = described.flatMap(forbiddenIn).filter((each) => !limits.restricted || !said.includes(each));
      if (more.length > 0) throw new LxstowError('forbidden', refusalOf(`${what}, in its backup.yaml,`, more));
    },
  };
}
