/** `lxstow backup`: named instances, each as an operation; or with --all or --selector, one run. */
import { backupOptions, type HowToBackUp, howIn, selectorIn, tagsIn } from '../client/backupRequest.ts';
import { exitOfAll, type Followed, follow, forAll, heedInterrupts, sayTroubles } from '../client/following/follow.ts';
import { type Outcome, outcomeOf } from '../client/following/outcomeJson.ts';
import { patiently } from '../client/following/patience.ts';
import { Gateways, type NamedInstance, type Scope, suggesting } from '../client/names.ts';
import { CliError, type Exit, exits, inOptions } from '../exit.ts';
import { type Format, print, size } from '../terminal/output.ts';
import { openProgress } from '../terminal/progress.ts';

interface BackupOptions extends Scope, HowToBackUp {
  all?: boolean;
  selector: string[];
  name?: string;
  /** How long to repeat the request, in ms. */
  retry?: number;
  wait: boolean;
  quiet?: boolean;
  format: Format;
}

interface Job extends Followed {
  where: NamedInstance;
  backup?: string;
}

export async function backupCommand(texts: string[], options: BackupOptions): Promise<Exit> {
  using gateways = new Gateways();
  const many = options.all || options.selector.length > 0;
  if (!many && texts.length === 0)
    throw new CliError(exits.usage, 'which instances?', { hint: 'name some, or give --all or --selector' });
  if (options.name !== undefined && (many || texts.length > 1))
    throw new CliError(exits.usage, '--name is for the backup of one instance');
  return many ? await backUpMany(gateways, texts, options) : await backUpNamed(gateways, texts, options);
}

async function backUpMany(gateways: Gateways, texts: string[], options: BackupOptions): Promise<Exit> {
  const { gateway, names } = await gateways.ofOne(texts);
  if (names.length > 0)
    throw new CliError(exits.usage, `${names[0]}: name instances, or give --all or --selector, not both`);
  const { project = gateway.remote.project ?? 'default', target, tag } = options;
  const places = { project: [project], target: target === undefined ? [] : [target], exclude: [] };
  const selector = selectorIn({ ...options, ...places, instances: [] }, gateway.remote);
  const tags = tag.length > 0 && { tags: Object.fromEntries(tagsIn(tag)) };
  // Load this only now, because a backup of named instances does not need it.
  const { beginRun } = await import('../client/following/followRun.ts');
  return await beginRun(gateway, ['runs'], { selector, ...howIn(options), ...tags }, options);
}

async function backUpNamed(gateways: Gateways, texts: string[], options: BackupOptions): Promise<Exit> {
  const jobs: Job[] = await Promise.all(
    [...new Set(texts)].map(async (label) => {
      const where = await gateways.oneInstance(label, options);
      return { label, gateway: where.gateway, where };
    }),
  );
  const request = requestOf(options);
  using progress = openProgress(options.quiet);
  using interrupts = heedInterrupts(() => sayLeft(jobs));
  const until = performance.now() + (options.retry ?? 0);
  const noted = new Set<string>();
  const note = (text: string) => {
    if (!noted.has(text)) progress.note(text);
    noted.add(text);
  };
  await forAll(jobs, async (job) => {
    if (interrupts.first.aborted) throw new CliError(exits.interrupted, 'not started');
    const { gateway, scope, instance } = job.where;
    const begun = await patiently(
      () =>
        suggesting(job.where, undefined, () =>
          gateway.ask('POST', ['instances', instance, 'backups'], { ...request, query: scope }),
        ),
      { until, note, signal: interrupts.first },
    ).catch((error) => {
      throw inOptions(error, { ...backupOptions, name: '--name' });
    });
    job.operation = begun;
    job.backup = begun.name;
    progress.show(
      jobs.map(({ label, error, operation }) => ({
        label,
        state: error ? 'Failure' : (operation?.status ?? 'asking'),
      })),
    );
  });
  if (options.wait || interrupts.first.aborted) await follow(jobs, progress, interrupts);
  progress[Symbol.dispose]();
  sayTroubles(jobs);
  report(jobs, options);
  return exitOfAll(jobs, interrupts);
}

function requestOf({ tag, name, ...how }: BackupOptions) {
  const tags = tagsIn(tag);
  return {
    ...(tags.length > 0 && { headers: { 'x-amz-tagging': new URLSearchParams(tags).toString() } }),
    body: { ...(name !== undefined && { name }), ...howIn({ tag, ...how }) },
  };
}

function report(jobs: Job[], { format }: BackupOptions): void {
  // Failures are printed already.
  if (format === 'table' && jobs.every(({ operation }) => !operation)) return;
  const raw = jobs.map((job) => outcomeOf(job));
  const rows = jobs.map(({ label }, index) => {
    const { name, status, size: bytes, operation } = raw[index] as Outcome;
    return [label, name ?? '-', status, bytes === null ? '-' : size(bytes), operation ?? '-'];
  });
  print(format, { heading: ['INSTANCE', 'BACKUP', 'STATUS', 'SIZE', 'OPERATION'], rows, raw, empty: '' });
}

/** Prints the operations that continue without this client. */
export function sayLeft(all: Followed[]): void {
  const open = all.flatMap(({ label, operation }) =>
    operation && operation.status_code < 200 ? [`${label} ${operation.id}`] : [],
  );
  process.stderr.write(`\nlxstow: left before their end: ${open.join(', ') || 'none'}\n`);
}
