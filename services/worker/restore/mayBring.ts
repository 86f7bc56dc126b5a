/** Checks what the backup contains if the restore's client is restricted to projects. */
import { LxstowError } from '../../contract/errors.ts';
import type { Manifest } from '../../contract/schemas.ts';
import type { LxdClient } from '../../lxd/connection/client.ts';
import { projectLimits } from '../../lxd/instances.ts';
import { knownProfiles } from '../../lxd/profiles.ts';
import { forbiddenFor, type Limits, refusalOf } from '../../lxd/restrictions.ts';
import { jobSubject } from '../../nats/subjects.ts';
import type { Restoring } from './restoring.ts';

/** Asks LXD what a project is limited to, and which of these profiles it has. */
export async function restrictionsOf(
  lxd: LxdClient,
  project: string,
  profiles: string[],
  signal: AbortSignal,
): Promise<Limits> {
  const [limits, known] = await Promise.all([
    projectLimits(lxd, project, signal),
    knownProfiles(lxd, project, profiles, signal),
  ]);
  return { ...limits, profiles: known };
}

/** Throws forbidden if the backup contains what LXD refuses in restricted projects, unless the job is `.unrestricted`. */
export async function assertMayBring(restoring: Restoring, { instance }: Manifest): Promise<void> {
  const { job, source, target, tools, attempt } = restoring;
  if (job.unrestricted) return;
  const profiles = instance.profiles.map(({ name }) => name);
  const limits = await restrictionsOf(tools.lxd, target.project, profiles, attempt.signal);
  const forbidden = forbiddenFor(instance, limits);
  if (forbidden.length === 0) return;
  const subject = jobSubject('restore', target, source, { unrestricted: true });
  const refusal = refusalOf(`the backup of ${source.instance}`, forbidden);
  throw new LxstowError('forbidden', `${refusal}. To allow it, publish the job to ${subject}`);
}
