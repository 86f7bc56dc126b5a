/** `lxstow prune --simulate`: draws which of regularly made backups a rule keeps. It needs a gateway only for `--schedule`. */
import type { KeepRule, ShownSchedule } from '../../contract/schemas.ts';
import { type Pace, simulate } from '../../retention/simulate.ts';
import { Gateways } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { localZone } from '../terminal/dates.ts';
import { keptCalendar } from '../terminal/keptCalendar.ts';
import { type Format, print } from '../terminal/output.ts';

export interface SimulationOptions {
  /** True means a year. */
  simulate?: string | true;
  cron?: string;
  every?: string;
  schedule?: string;
}

interface Options extends SimulationOptions {
  zone?: string;
  dryRun?: boolean;
  format: Format;
}

interface Simulation {
  pace: Pace;
  /** With its zone. */
  rule: KeepRule;
}

/** Throws if options of a simulation are given without --simulate, because the command would then delete backups. */
export function assertNotSimulated({ cron, every, schedule }: SimulationOptions): void {
  if (cron !== undefined || every !== undefined || schedule !== undefined)
    throw new CliError(exits.usage, '--cron, --every and --schedule are for --simulate');
}

export async function simulateCommand(texts: string[], rule: KeepRule | undefined, options: Options): Promise<Exit> {
  const { cron, every, schedule, dryRun, format, simulate: span } = options;
  if (texts.length > 0)
    throw new CliError(exits.usage, '--simulate tries a rule, not instances: give no instance names');
  if (dryRun) throw new CliError(exits.usage, 'give --dry-run or --simulate, not both');
  if ([cron, every, schedule].filter((each) => each !== undefined).length > 1)
    throw new CliError(exits.usage, 'give one of --cron, --every and --schedule');
  const meant = await (schedule === undefined ? ofOptions(rule, options) : ofSchedule(schedule, rule, options));
  const found = simulate(meant.pace, meant.rule, span === true || span === undefined ? '1y' : span, new Date());
  if (format === 'table') process.stdout.write(keptCalendar(found));
  else
    print(format, {
      heading: ['CREATED', 'ACTION', 'REASONS'],
      rows: found.map(({ created, action, reasons }) => [created, action, reasons.join(', ')]),
      raw: found,
      empty: '',
    });
  return exits.ok;
}

function ofOptions(rule: KeepRule | undefined, { cron = '@daily', every, zone }: Options): Simulation {
  if (!rule)
    throw new CliError(exits.usage, 'prune needs to know what to keep', {
      hint: 'for example --keep-daily 14 --keep-monthly 12',
    });
  return { pace: every === undefined ? { cron } : { every }, rule: { ...rule, zone: zone ?? localZone() } };
}

async function ofSchedule(text: string, rule: KeepRule | undefined, { zone: wanted }: Options): Promise<Simulation> {
  using gateways = new Gateways();
  const { gateway, id: name } = await gateways.withId(text);
  const { definition }: ShownSchedule = await gateway.ask('GET', ['schedules', name]);
  const { cron, keep, zone = 'UTC' } = definition;
  const meant = rule ?? keep;
  if (!meant)
    throw new CliError(exits.usage, `schedule ${name} has no rule: it keeps every backup`, {
      hint: 'for example --keep-daily 14 --keep-monthly 12',
    });
  return { pace: { cron }, rule: { ...meant, zone: wanted ?? meant.zone ?? zone } };
}
