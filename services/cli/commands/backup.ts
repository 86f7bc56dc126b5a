/** `lxstow backup`: of the instances that are named, that a selector fits, or of all. */
import { isCode } from '../../contract/errors.ts';
import { type Match, parseMatch } from '../../runs/selector.ts';
import {
  exitOfAll,
  type Followed,
  follow,
  forAll,
  heedInterrupts,
  sayFailures,
  sayWarnings,
} from '../client/follow.ts';
import { Gateways, type InstancePlace, listInstances, type Place, suggesting } from '../client/names.ts';
import { type Outcome, outcomeOf } from '../client/outcome.ts';
import { patiently } from '../client/patience.ts';
import { CliError, type Exit, exits, inOptions } from '../exit.ts';
import { tagsIn } from '../tagOptions.ts';
import { type Format, print, size } from '../terminal/output.ts';
import { openProgress } from '../terminal/progress.ts';

export interface BackupOptions extends Place {
  all?: boolean;
  selector: string[];
  tag: string[];
  name?: string;
  compression?: string;
  optimized?: boolean;
  instanceOnly?: boolean;
  notify?: string;
  /** For how long to ask again, ms. */
  retry?: number;
  wait: boolean;
  quiet?: boolean;
  format: Format;
}

interface Job extends Followed {
  where: InstancePlace;
  backup?: string;
}

export async function backupCommand(instances: string[], options: BackupOptions): Promise<Exit> {
  using gateways = new Gateways();
  const until = performance.now() + (options.retry ?? 0);
  const noted = new Set<string>();
  const once = (note: (text: string) => void) => (text: string) => {
    if (!noted.has(text)) note(text);
    noted.add(text);
  };
  const note = once((text) => process.stderr.write(`lxstow: ${text}\n`));
  const patience = { until, note, signal: new AbortController().signal };
  const jobs: Job[] = (await patiently(() => wanted(gateways, instances, options), patience)).map((where) => ({
    label: instances.find((text) => text.endsWith(`:${where.instance}`)) ?? where.instance,
    gateway: where.gateway,
    where,
  }));
  // Of two LXD servers' instances of one name it is said which is which.
  const times = Map.groupBy(jobs, ({ label }) => label);
  for (const job of jobs)
    if ((times.get(job.label)?.length ?? 0) > 1 && job.where.place.target !== undefined)
      job.label = `${job.label} (${job.where.place.target})`;
  if (options.name !== undefined && jobs.length !== 1)
    throw new CliError(exits.usage, '--name is for the backup of one instance');
  const request = requestOf(options);
  {
    using progress = openProgress(options.quiet);
    using interrupts = heedInterrupts(() => sayLeft(jobs));
    await forAll(jobs, async (job) => {
      if (interrupts.first.aborted) throw new CliError(exits.interrupted, 'not begun');
      const { gateway, place, instance } = job.where;
      const begun = await patiently(
        () =>
          suggesting(job.where, undefined, () =>
            gateway.ask('POST', ['instances', instance, 'backups'], { ...request, query: place }),
          ),
        { until, note: once((text) => progress.note(text)), signal: interrupts.first },
      ).catch((error) => {
        throw inOptions(error, optionsOf);
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
    sayFailures(jobs);
    sayWarnings(jobs);
    report(jobs, options);
    return exitOfAll(jobs, interrupts);
  }
}

const optionsOf = { name: '--name', compression_algorithm: '--compression', notifyEndpoint: '--notify' };

/** Who is meant, each once. */
async function wanted(gateways: Gateways, texts: string[], options: BackupOptions): Promise<InstancePlace[]> {
  const { all, selector } = options;
  if (!all && selector.length === 0) {
    if (texts.length === 0)
      throw new CliError(exits.usage, 'of which instance?', { hint: 'name some, or give --all or --selector' });
    const named = await Promise.all([...new Set(texts)].map((text) => gateways.oneInstance(text, options)));
    return named;
  }
  const remotes = await Promise.all(
    (texts.length > 0 ? texts : [undefined]).map((text) => remoteOnly(gateways, text, options)),
  );
  const matches = selector.map(parseSelector);
  const found: InstancePlace[] = [];
  for (const where of remotes) {
    const listed = (await listInstances(where)).filter((each) => matches.every((match) => match(each)));
    listed.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const { name, location } of listed)
      found.push({ ...where, instance: name, place: { ...where.place, target: where.place.target ?? location } });
  }
  if (found.length === 0)
    throw new CliError(
      exits.notFound,
      selector.length > 0 ? `no instance fits ${selector.join(' ')}` : 'there are no instances',
    );
  return found;
}

async function remoteOnly(gateways: Gateways, text: string | undefined, options: Place): Promise<InstancePlace> {
  const where = await gateways.instance(text ?? '', options);
  if (where.instance !== '')
    throw new CliError(exits.usage, `${text}: name instances, or give --all or --selector, not both`);
  return where;
}

/** See parseMatch. Throws usage for what is none. */
export function parseSelector(text: string): Match {
  try {
    return parseMatch(text);
  } catch (error) {
    if (!isCode(error, 'bad-request')) throw error;
    throw new CliError(exits.usage, `--selector ${(error as Error).message}`);
  }
}

function requestOf({ tag, name, compression, optimized, instanceOnly, notify }: BackupOptions) {
  const tags = tagsIn(tag);
  const headers: Record<string, string> = {};
  if (tags.length > 0) headers['x-amz-tagging'] = new URLSearchParams(tags).toString();
  return {
    headers,
    body: {
      ...(name !== undefined && { name }),
      ...(compression !== undefined && { compression_algorithm: compression }),
      ...(optimized !== undefined && { optimized_storage: optimized }),
      ...(instanceOnly !== undefined && { instance_only: instanceOnly }),
      ...(notify !== undefined && { notifyEndpoint: notify }),
    },
  };
}

function report(jobs: Job[], { format }: BackupOptions): void {
  // What failed is said already.
  if (format === 'table' && jobs.every(({ operation }) => !operation)) return;
  const raw = jobs.map((job) => outcomeOf(job));
  const rows = jobs.map(({ label }, index) => {
    const { name, status, size: bytes, operation } = raw[index] as Outcome;
    return [label, name ?? '-', status, bytes === null ? '-' : size(bytes), operation ?? '-'];
  });
  print(format, { heading: ['INSTANCE', 'BACKUP', 'STATUS', 'SIZE', 'OPERATION'], rows, raw, empty: '' });
}

/** What goes on without us. */
export function sayLeft(all: Followed[]): void {
  const open = all.flatMap(({ label, operation }) =>
    operation && operation.status_code < 200 ? [`${label} ${operation.id}`] : [],
  );
  process.stderr.write(`\nlxstow: left; not over yet: ${open.join(', ') || 'nothing'}\n`);
}
