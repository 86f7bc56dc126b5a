/** `lxstow schedule`: manages schedules. */

import { readFile } from 'node:fs/promises';
import { text as allOf } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import { parse, stringify } from 'yaml';
import { check, type ScheduleBody, type ScheduledAt, type ShownSchedule } from '../../contract/schemas.ts';
import { type Choice, type HowToBackUp, howIn, selectorIn, tagsIn } from '../client/backupRequest.ts';
import { beginRun, type Following } from '../client/following/followRun.ts';
import type { Gateway } from '../client/gatewayClient.ts';
import { Gateways } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { localZone, parseTime } from '../terminal/dates.ts';
import { keepWords } from '../terminal/keepWords.ts';
import { type Format, print, say } from '../terminal/output.ts';
import { type KeepOptions, keepOf } from './prune.ts';

interface CreateOptions extends KeepOptions, HowToBackUp, Choice {
  cron: string;
  zone?: string;
  description?: string;
  jitter?: string;
  window?: string;
  catchUp?: 'once' | 'never';
  instance: string[];
  ping?: string;
}

export async function createCommand(text: string, options: CreateOptions): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  await gateway.ask('POST', ['schedules'], { body: { name, definition: definitionOf(options, gateway) } });
  const { next }: ShownSchedule = await gateway.ask('GET', ['schedules', name]);
  process.stdout.write(`${name} is created, and is due next at ${next}\n`);
  return exits.ok;
}

function definitionOf(options: CreateOptions, { remote }: Gateway): ScheduleBody {
  const { cron, description, jitter, window, catchUp, instance, tag, ping } = options;
  const selector = selectorIn({ ...options, instances: instance }, remote);
  const keep = keepOf(options);
  return {
    ...(description !== undefined && { description }),
    cron,
    zone: options.zone ?? localZone(),
    ...(jitter !== undefined && { jitter }),
    ...(window !== undefined && { window }),
    ...(catchUp !== undefined && { catch_up: catchUp }),
    ...(Object.keys(selector).length > 0 && { selector }),
    ...howIn(options),
    ...(tag.length > 0 && { tags: Object.fromEntries(tagsIn(tag)) }),
    ...(keep && { keep }),
    ...(ping !== undefined && { ping }),
  };
}

export async function listCommand(remote: string | undefined, { format }: { format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const found = await all(await gateways.get(remote));
  print(format, {
    heading: ['NAME', 'CRON', 'ZONE', 'NEXT', 'LAST', 'STATE'],
    rows: found.map((each) => [
      ...[each.name, each.definition.cron, each.definition.zone ?? 'UTC', each.next ?? '', each.last?.at ?? ''],
      stateOf(each),
    ]),
    raw: found,
    empty: 'there are no schedules',
  });
  return exits.ok;
}

function stateOf({ paused, owner_trouble: trouble }: ShownSchedule): string {
  if (paused) return paused.reason ? `paused: ${paused.reason}` : 'paused';
  return trouble === undefined ? 'active' : `active; ${trouble}`;
}

export async function showCommand(text: string, { format }: { format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  const found: ShownSchedule = await gateway.ask('GET', ['schedules', name]);
  if (format === 'table') process.stdout.write(stringify(found));
  else print(format, { heading: [], rows: [], raw: found, empty: '' });
  return exits.ok;
}

export async function pauseCommand(
  text: string,
  { reason, until }: { reason?: string; until?: string },
): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  const body = {
    ...(reason !== undefined && { reason }),
    ...(until !== undefined && { until: parseTime(until, '--until').toISOString() }),
  };
  await gateway.ask('POST', ['schedules', name, 'pause'], { body });
  process.stdout.write(`${name} is paused\n`);
  return exits.ok;
}

export async function resumeCommand(text: string): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  const { next }: ShownSchedule = await gateway.ask('POST', ['schedules', name, 'resume']);
  process.stdout.write(`${name} is resumed, and is due next at ${next}\n`);
  return exits.ok;
}

export async function runNowCommand(text: string, options: Following): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  return await beginRun(gateway, ['schedules', name, 'run'], {}, options);
}

export async function deleteCommand(text: string): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  await gateway.ask('DELETE', ['schedules', name]);
  process.stdout.write(`${name} is deleted\n`);
  return exits.ok;
}

export async function nextCommand(
  text: string | undefined,
  { instances, count, format }: { instances?: boolean; count?: string; format: Format },
): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id: name } = await gateways.withId(text ?? '');
  const names = name === '' ? (await all(gateway)).map((each) => each.name) : [name];
  const times: ScheduledAt[] = [];
  for (const each of names)
    times.push(
      ...(await gateway.ask('GET', ['schedules', each, 'next'], {
        query: { count, ...(instances && { instances: 'true' }) },
        onWarning: say,
      })),
    );
  times.sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  print(format, {
    heading: instances ? ['AT', 'SCHEDULE', 'HOST', 'PROJECT', 'INSTANCE', 'KEEP'] : ['AT', 'SCHEDULE'],
    rows: times.map(({ at, schedule, host = '', project = '', instance = '', keep, keys }) =>
      instances ? [at, schedule, host, project, instance, keep ? keepWords(keep, keys) : 'all'] : [at, schedule],
    ),
    raw: times,
    empty: 'nothing is due',
  });
  return exits.ok;
}

export async function exportCommand(texts: string[]): Promise<Exit> {
  using gateways = new Gateways();
  const places = await Promise.all((texts.length > 0 ? texts : ['']).map((text) => gateways.withId(text)));
  const [{ gateway }] = places as [(typeof places)[0]];
  if (places.some((each) => each.gateway !== gateway))
    throw new CliError(exits.usage, 'export the schedules of one gateway at a time');
  const names = places.map(({ id }) => id).filter((name) => name !== '');
  const found = (await all(gateway)).filter(({ name }) => names.length === 0 || names.includes(name));
  const missing = names.find((name) => !found.some((each) => each.name === name));
  if (missing !== undefined) throw new CliError(exits.notFound, `schedule ${missing} does not exist`);
  const { name, masked = [] } = found.find((each) => each.masked) ?? {};
  // A schedule that is made from its scheme, host and port alone would call another URL.
  if (name !== undefined)
    throw new CliError(exits.refused, `this client sees only a part of ${masked.join(' and ')} of schedule ${name}`, {
      hint: 'to export it, use the certificate of an operator',
    });
  process.stdout.write(
    stringify({ schedules: Object.fromEntries(found.map(({ name, definition }) => [name, definition])) }),
  );
  return exits.ok;
}

export async function applyCommand(
  file: string,
  { remote, dryRun }: { remote?: string; dryRun?: boolean },
): Promise<Exit> {
  using gateways = new Gateways();
  const gateway = await gateways.get(remote);
  const wanted = await readSchedules(file);
  // Check all definitions before changing anything.
  for (const [name, definition] of Object.entries(wanted))
    check('http-schedules-post.json', { name, definition }, name);
  const known = new Map((await all(gateway)).map((each) => [each.name, each]));
  for (const [name, definition] of Object.entries(wanted)) {
    const before = known.get(name);
    const what =
      before === undefined ? 'created' : isSame(before, definition as ScheduleBody) ? 'unchanged' : 'changed';
    if (before?.masked) say(`${name}: of ${before.masked.join(' and ')}, this client sees only scheme, host and port`);
    try {
      if (!dryRun && what === 'created') await gateway.ask('POST', ['schedules'], { body: { name, definition } });
      if (!dryRun && what === 'changed') await gateway.ask('PUT', ['schedules', name], { body: definition as object });
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      const far = `${name}: ${error.message}; the schedules before it are applied`;
      throw new CliError(error.exit, far, { hint: error.hint, cause: error });
    }
    process.stdout.write(`${name}: ${what}${dryRun && what !== 'unchanged' ? ' (dry run)' : ''}\n`);
  }
  return exits.ok;
}

/** Whether a definition is that of the schedule, as far as this client sees it. */
function isSame({ definition, masked = [] }: ShownSchedule, wanted: ScheduleBody): boolean {
  const seen = masked.flatMap((field) => {
    const url = wanted[field];
    return url === undefined ? [] : [[field, new URL(url).origin]];
  });
  return isDeepStrictEqual(definition, { ...wanted, ...Object.fromEntries(seen) });
}

async function readSchedules(file: string): Promise<Record<string, unknown>> {
  const read = async () => (file === '-' ? allOf(process.stdin) : readFile(file, 'utf8'));
  const source = await read().catch((cause) => {
    throw new CliError(exits.io, `cannot read ${file}: ${(cause as Error).message}`, { cause });
  });
  let found: unknown;
  try {
    found = parse(source);
  } catch (cause) {
    throw new CliError(exits.usage, `${file} is not YAML: ${(cause as Error).message}`, { cause });
  }
  const { schedules } = (found ?? {}) as { schedules?: unknown };
  if (typeof schedules === 'object' && schedules !== null && !Array.isArray(schedules))
    return schedules as Record<string, unknown>;
  throw new CliError(exits.usage, `${file} has no schedules`, { hint: '`lxstow schedule export` shows the format' });
}

function all(gateway: Gateway): Promise<ShownSchedule[]> {
  return gateway.ask('GET', ['schedules'], { query: { recursion: '1' } });
}
