/** The profiles of a project, and those that a backup needs. */
import { isDeepStrictEqual } from 'node:util';
import { LxstowError, unlessMissing } from '../contract/errors.ts';
import type { Profile } from '../contract/schemas.ts';
import type { LxdClient } from './connection/client.ts';
import { exists } from './instances.ts';

/** Returns those of the profiles that a project has. */
export async function knownProfiles(
  lxd: LxdClient,
  project: string,
  names: string[],
  signal: AbortSignal,
): Promise<string[]> {
  const found = await Promise.all(
    names.map((name) => exists(lxd, `/1.0/profiles/${encodeURIComponent(name)}`, { project }, signal)),
  );
  return names.filter((_, index) => found[index]);
}

/** Creates the profiles that the project lacks, and calls `onMade` for each. Existing ones are left unchanged; `different` names those with other contents. */
export async function ensureProfiles(
  lxd: LxdClient,
  project: string,
  profiles: Profile[],
  signal: AbortSignal,
  onMade?: (made: string[]) => Promise<void>,
): Promise<{ made: string[]; different: string[] }> {
  const made: string[] = [];
  const different: string[] = [];
  for (const profile of profiles) {
    const path = `/1.0/profiles/${encodeURIComponent(profile.name)}`;
    const found = await unlessMissing(() => lxd.get<Profile>(path, { project }, signal));
    if (found) {
      const same = (['config', 'devices'] as const).every((key) => isDeepStrictEqual(found[key], profile[key]));
      if (!same) different.push(profile.name);
      continue;
    }
    try {
      await lxd.call({ method: 'POST', path: '/1.0/profiles', query: { project }, body: profile, signal });
    } catch (error) {
      if (!(error instanceof LxstowError)) throw error;
      throw new LxstowError(
        'lxd-refused',
        `profile ${profile.name}, which the backup needs, cannot be made: ${error.message}`,
        { cause: error },
      );
    }
    made.push(profile.name);
    await onMade?.(made);
  }
  return { made, different };
}

/** Deletes those of the profiles that nothing uses. LXD refuses to delete the others. */
export async function deleteUnusedProfiles(
  lxd: LxdClient,
  project: string,
  names: string[],
  signal: AbortSignal,
): Promise<void> {
  for (const name of names) {
    const path = `/1.0/profiles/${encodeURIComponent(name)}`;
    await unlessMissing(() => lxd.call({ method: 'DELETE', path, query: { project }, signal })).catch((error) => {
      if (!/\bcurrently in use\b/.test(error.message)) throw error;
    });
  }
}
