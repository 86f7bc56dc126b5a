/** `lxstow schedule edit`: changes a schedule's definition in an editor, or from standard input. */
import { text as allOf } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import { parse, stringify } from 'yaml';
import { LxstowError } from '../../contract/errors.ts';
import { check, type ScheduleBody, type ShownSchedule } from '../../contract/schemas.ts';
import type { Gateway } from '../client/gatewayClient.ts';
import { Gateways } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { edited } from '../terminal/editor.ts';

export async function editCommand(text: string): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, name } = await gateways.schedule(text);
  const { definition }: ShownSchedule = await gateway.ask('GET', ['schedules', name]);
  const take = (written: string) => replace(gateway, name, definition, written);
  const heading = `# The definition of schedule ${name}. Lines that begin with # are ignored.\n`;
  const changed = process.stdin.isTTY
    ? await edited(`${name}.yaml`, heading + stringify(definition), take)
    : await take(await allOf(process.stdin));
  process.stdout.write(
    changed ? `${name} is changed, and is due next at ${changed.next ?? '-'}\n` : `${name} is unchanged\n`,
  );
  return exits.ok;
}

/** Replaces the definition; returns undefined if it has not changed. Throws conflict if another client has changed the schedule in the meantime. */
async function replace(
  gateway: Gateway,
  name: string,
  before: ScheduleBody,
  written: string,
): Promise<ShownSchedule | undefined> {
  const definition = definitionIn(written);
  if (isDeepStrictEqual(definition, before)) return undefined;
  const now: ShownSchedule = await gateway.ask('GET', ['schedules', name]);
  if (!isDeepStrictEqual(now.definition, before))
    throw new CliError(exits.conflict, `schedule ${name} was changed by another client in the meantime`, {
      hint: `see: lxstow schedule show ${name}`,
    });
  return gateway.ask('PUT', ['schedules', name], { body: definition });
}

function definitionIn(written: string): ScheduleBody {
  try {
    return check('http-schedule.json', parse(written) ?? {}, 'the definition');
  } catch (error) {
    const message = error instanceof LxstowError ? error.message : `this is not YAML: ${(error as Error).message}`;
    throw new CliError(exits.usage, message, { cause: error });
  }
}
