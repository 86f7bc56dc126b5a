/** The profiles of a project, and those that a backup needs. */
import { isDeepStrictEqual } from 'node:util';
import { isCode, LxstowError, unlessMissing } from '../contract/errors.ts';
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
    const found =
      (await findProfile(lxd, project, profile.name, signal)) ?? (await make(lxd, project, profile, signal));
    if (!found) {
      made.push(profile.name);
      await onMade?.(made);
    } else if ((['config', 'devices'] as const).some((key) => !isDeepStrictEqual(found[key], profile[key])))
      different.push(profile.name);
  }
  return { made, different };
}

function findProfile(lxd: LxdClient, project: string, name: string, signal: AbortSignal): Promise<Profile | undefined> {
  return unlessMissing(() => lxd.get(`/1.0/profiles/${encodeURIComponent(name)}`, { project }, signal));
}

/** Creates a profile. If another client has created one of this name in the meantime, returns that one instead. */
async function make(
  lxd: LxdClient,
  project: string,
  profile: Profile,
  signal: AbortSignal,
): Promise<Profile | undefined> {
  try {
    await lxd.call({ method: 'POST', path: '/1.0/profiles', query: { project }, body: profile, signal });
    return undefined;
  } catch (error) {
    if (signal.aborted || !(error instanceof LxstowError) || isCode(error, 'lxd-unavailable')) throw error;
    const found = await findProfile(lxd, project, profile.name, signal);
    if (found) return found;
    throw new LxstowError(
      // After a failure of LXD itself, another attempt may succeed.
      isCode(error, 'lxd-failed') ? 'lxd-failed' : 'lxd-refused',
      `profile ${profile.name}, which the backup needs, cannot be made: ${error.message}`,
      { cause: error },
    );
  }
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
