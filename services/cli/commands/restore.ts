/** `lxstow restore`: one backup, or the latest one of every instance. */
import type { ListedBackup } from '../../contract/schemas.ts';
import { exitOfAll, type Followed, follow, forAll, heedInterrupts, sayTroubles } from '../client/following/follow.ts';
import { type Outcome, outcomeOf } from '../client/following/outcomeJson.ts';
import {
  backupName,
  Gateways,
  listBackups,
  type NamedInstance,
  newestOf,
  type Scope,
  suggesting,
} from '../client/names.ts';
import { CliError, type Exit, exits, inOptions } from '../exit.ts';
import { parseTime } from '../terminal/dates.ts';
import { type Format, print } from '../terminal/output.ts';
import { openProgress } from '../terminal/progress.ts';
import { sayLeft } from './backup.ts';

interface RestoreOptions extends Scope {
  all?: boolean;
  allProjects?: boolean;
  as?: string;
  at?: string;
  pool?: string;
  toProject?: string;
  toTarget?: string;
  start?: boolean;
  replace?: boolean;
  keepIdentity?: boolean;
  /** False if `--no-network` is given. */
  network: boolean;
  anyway?: boolean;
  notify?: string;
  wait: boolean;
  quiet?: boolean;
  format: Format;
}

interface Job extends Followed {
  where: NamedInstance;
  backup: string;
}

export async function restoreCommand(
  instance: string | undefined,
  wanted: string | undefined,
  options: RestoreOptions,
): Promise<Exit> {
  const { all = false, wait, quiet } = options;
  using gateways = new Gateways();
  const jobs = all
    ? await everyInstance(gateways, instance, wanted, options)
    : await oneBackup(gateways, instance, wanted, options);
  using interrupts = heedInterrupts(() => sayLeft(jobs));
  {
    using progress = openProgress(quiet);
    await forAll(jobs, async (job) => {
      if (interrupts.first.aborted) throw new CliError(exits.interrupted, 'not started');
      const { where, backup } = job;
      const asked = suggesting(where, backup, () =>
        where.gateway.ask('POST', ['instances', where.instance, 'backups', backup], {
          body: bodyOf(options),
          query: where.scope,
        }),
      );
      job.operation = await asked.catch((error) => {
        throw inOptions(withOptions(error, options), optionsOf);
      });
    });
    const [first] = jobs;
    if (!all && first?.error) throw first.error;
    if (interrupts.first.aborted || wait) await follow(jobs, progress, interrupts);
  }
  sayTroubles(jobs);
  report(jobs, options);
  return exitOfAll(jobs, interrupts);
}

async function oneBackup(
  gateways: Gateways,
  instance: string | undefined,
  wanted: string | undefined,
  { as, at, allProjects, ...options }: RestoreOptions,
): Promise<Job[]> {
  if (at !== undefined && wanted !== undefined)
    throw new CliError(exits.usage, 'give either a backup or --at, not both');
  if (allProjects) throw new CliError(exits.usage, '--all-projects needs --all');
  if (instance === undefined || (wanted === undefined && at === undefined))
    throw new CliError(exits.usage, 'which backup?', {
      hint: 'name an instance and its backup (or `latest`), or give --at or --all',
    });
  const where = await gateways.oneInstance(instance, options);
  const backup = await suggesting(where, undefined, () =>
    at === undefined ? backupName(where, wanted ?? 'latest') : backupAt(where, at),
  );
  return [{ label: as ?? where.instance, gateway: where.gateway, where, backup }];
}

/** The last backup before that time, or before the end of that day. */
async function backupAt(where: NamedInstance, at: string): Promise<string> {
  const end = parseTime(at, '--at', true).getTime();
  const all = await listBackups(where);
  const found = newestOf(
    where.gateway,
    all.filter(({ created }) => Date.parse(created) < end),
  );
  if (found) return found.name;
  throw new CliError(exits.notFound, `${where.instance} has no backup from before ${new Date(end).toISOString()}`, {
    hint: all[0] ? `the oldest one is ${all[0].name}` : `lxstow backup ${where.instance}`,
  });
}

async function everyInstance(
  gateways: Gateways,
  remote: string | undefined,
  wanted: string | undefined,
  options: RestoreOptions,
): Promise<Job[]> {
  const { as, at, allProjects = false, project } = options;
  if (at !== undefined) throw new CliError(exits.usage, '--at is for one instance');
  if (as !== undefined) throw new CliError(exits.usage, '--as is for one instance');
  if (allProjects && project !== undefined)
    throw new CliError(exits.usage, 'give either --project or --all-projects, not both');
  const where = await gateways.instance(remote ?? '', options);
  if (where.instance !== '' || (wanted !== undefined && wanted !== 'latest'))
    throw new CliError(exits.usage, 'give either an instance or --all, not both');
  const { gateway, scope } = where;
  const asked = allProjects ? { ...where, scope: { ...scope, project: undefined } } : where;
  const labelOf = ({ project, instance }: ListedBackup) => (allProjects ? `${project}/${instance}` : instance);
  const groups = Map.groupBy(await listBackups(asked, allProjects), labelOf);
  if (groups.size === 0) throw new CliError(exits.notFound, 'there are no backups', { hint: 'lxstow list --all' });
  return [...groups].map(([label, backups]) => {
    const { name: backup, instance, project } = newestOf(gateway, backups) as ListedBackup;
    return { label, gateway, where: { gateway, instance, scope: { ...scope, project } }, backup };
  });
}

const optionsOf = {
  name: '--as',
  pool: '--pool',
  project: '--to-project',
  target: '--to-target',
  notifyEndpoint: '--notify',
};

/** Replaces names of the body's fields in an error by the names of options. */
function withOptions(error: unknown, { all, as, replace }: RestoreOptions): unknown {
  const isOther = !(error instanceof CliError) || error.exit !== exits.conflict || error.hint !== undefined;
  if (isOther || all || as !== undefined || replace) return error;
  return new CliError(error.exit, error.message, {
    hint: 'restore it next to that one with --as NAME, or replace that one with --replace',
    cause: error,
  });
}

function bodyOf(options: RestoreOptions): object {
  const { as, pool, toProject, toTarget, start, replace, keepIdentity, network, anyway, notify } = options;
  return {
    ...(as !== undefined && { name: as }),
    ...(pool !== undefined && { pool }),
    ...(toProject !== undefined && { project: toProject }),
    ...(toTarget !== undefined && { target: toTarget }),
    ...(start && { start }),
    ...(replace && { replace }),
    ...(keepIdentity && { keep_identity: true }),
    ...(network ? {} : { network }),
    ...(anyway && { anyway }),
    ...(notify !== undefined && { notifyEndpoint: notify }),
  };
}

function report(jobs: Job[], { as, toProject, toTarget, format }: RestoreOptions): void {
  const raw = jobs.map((job) => {
    const { where, operation } = job;
    const { project = 'default', target: location = null } = where.scope;
    const source = operation?.metadata.source ?? { location, project, instance: where.instance, name: job.backup };
    return { ...outcomeOf(job, { instance: as, project: toProject, target: toTarget }), source };
  });
  const rows = jobs.map(({ label }, index) => {
    const { name, status, operation } = raw[index] as Outcome;
    return [label, name ?? '-', status, operation ?? '-'];
  });
  print(format, { heading: ['INSTANCE', 'BACKUP', 'STATUS', 'OPERATION'], rows, raw, empty: '' });
}
