/** `lxstow prune`: deletes the backups that a rule does not keep, or shows what it would do. */
import type { KeepRule, PruneVerdict } from '../../contract/schemas.ts';
import { exitOfAll, type Followed, failureOf, follow, sayTroubles } from '../client/following/follow.ts';
import type { ShownOperation } from '../client/gatewayClient.ts';
import { Gateways, type NamedInstance, type Scope, subjectOf } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { localZone } from '../terminal/dates.ts';
import { sayKept } from '../terminal/oldVersions.ts';
import { type Format, print, say, size, time } from '../terminal/output.ts';
import { openProgress } from '../terminal/progress.ts';
import { assertNotSimulated, type SimulationOptions, simulateCommand } from './pruneSimulation.ts';

export interface KeepOptions {
  keepLast?: number;
  keepHourly?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  keepYearly?: number;
  keepWithin?: string;
  keepTag: string[];
  minGood?: number;
  instanceKeys?: KeepRule['instance_keys'];
}

interface Options extends Scope, KeepOptions, SimulationOptions {
  zone?: string;
  dryRun?: boolean;
  quiet?: boolean;
  format: Format;
}

/** Ctrl-C only ends the command: a prune cannot be cancelled. */
const never = { first: new AbortController().signal };

interface Job extends Followed {
  operation: ShownOperation;
}

export async function pruneCommand(texts: string[], options: Options): Promise<Exit> {
  const rule = keepOf(options);
  if (options.simulate !== undefined) return simulateCommand(texts, rule, options);
  assertNotSimulated(options);
  if (!rule)
    throw new CliError(exits.usage, 'prune needs to know what to keep', {
      hint: 'for example --keep-daily 14 --keep-monthly 12',
    });
  // A variable of a script that has no value must not mean all instances.
  if (texts.includes('')) throw new CliError(exits.usage, '"" names no instance');
  const keep = { ...rule, zone: options.zone ?? localZone() };
  using gateways = new Gateways();
  const named = await Promise.all((texts.length > 0 ? texts : ['']).map((text) => gateways.instance(text, options)));
  const groups = [...Map.groupBy(named, ({ gateway }) => gateway).values()];
  const ask = (places: NamedInstance[], dryRun: boolean) => {
    const [{ gateway, scope }] = places as [NamedInstance];
    const instances = places.map(({ instance }) => instance).filter((instance) => instance !== '');
    const body = { keep, ...(instances.length > 0 && { instances }), ...(dryRun && { dry_run: true }) };
    return gateway.ask('POST', ['prune'], { query: scope, body, onWarning: say });
  };
  if (options.dryRun) {
    const verdicts: PruneVerdict[] = [];
    for (const places of groups) verdicts.push(...(await ask(places, true)));
    return show(verdicts, options.format);
  }
  const jobs: Job[] = [];
  for (const places of groups) {
    const { gateway } = places[0] as NamedInstance;
    for (const operation of (await ask(places, false)) as ShownOperation[])
      jobs.push({ label: subjectOf(operation)?.instance ?? '', gateway, operation });
  }
  {
    using progress = openProgress(options.quiet);
    await follow(jobs, progress, never);
  }
  sayTroubles(jobs);
  report(jobs, options.format);
  sayKept(jobs.reduce((sum, { operation }) => sum + (operation.metadata.bytes_in_old_versions ?? 0), 0));
  return exitOfAll(jobs, never);
}

/** The rule in the options, without a zone; undefined if they contain none. */
export function keepOf({ keepTag, minGood, instanceKeys, ...options }: KeepOptions): KeepRule | undefined {
  const given = Object.entries({
    keep_last: options.keepLast,
    keep_hourly: options.keepHourly,
    keep_daily: options.keepDaily,
    keep_weekly: options.keepWeekly,
    keep_monthly: options.keepMonthly,
    keep_yearly: options.keepYearly,
    keep_within: options.keepWithin,
    keep_tags: keepTag.length > 0 ? keepTag : undefined,
  }).filter(([, value]) => value !== undefined);
  if (given.length === 0) return undefined;
  return {
    ...Object.fromEntries(given),
    ...(minGood !== undefined && { min_good: minGood }),
    ...(instanceKeys && { instance_keys: instanceKeys }),
  };
}

function show(verdicts: PruneVerdict[], format: Format): Exit {
  print(format, {
    heading: ['INSTANCE', 'BACKUP', 'CREATED (UTC)', 'SIZE', 'ACTION', 'REASONS'],
    rows: verdicts.map(({ instance, backup, created, size: bytes, action, reasons }) => [
      ...[instance, backup, time(created), size(bytes), action],
      reasons.join(', '),
    ]),
    raw: verdicts,
    empty: 'there are no backups',
  });
  const gone = verdicts.filter(({ action }) => action === 'delete');
  const bytes = gone.reduce((sum, { size: each }) => sum + each, 0);
  if (format === 'table' && verdicts.length > 0)
    process.stderr.write(`${gone.length} of ${verdicts.length} backups would be deleted, ${size(bytes)}\n`);
  return exits.ok;
}

function report(jobs: Job[], format: Format): void {
  const ended = jobs.map((job) => {
    const { id, status, metadata } = job.operation;
    const { backups_deleted: deleted = 0, backups_kept: kept = null, bytes_freed: freed = 0 } = metadata;
    return { instance: job.label, status, deleted, kept, freed, operation: id, error: failureOf(job) ?? null };
  });
  print(format, {
    heading: ['INSTANCE', 'STATUS', 'DELETED', 'KEPT', 'FREED'],
    rows: ended.map(({ instance, status, deleted, kept, freed }) => [
      ...[instance, status, String(deleted), String(kept ?? '')],
      size(freed),
    ]),
    raw: ended,
    empty: 'the rule keeps every backup: nothing was deleted',
  });
}
