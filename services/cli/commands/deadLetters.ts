/** `lxstow dead-letters`: lists jobs that failed for good, queues them again, or discards them. */
import { LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import {
  type DeadLetter,
  discardAllDeadLetters,
  discardDeadLetter,
  getDeadLetter,
  listDeadLetters,
  retryDeadLetter,
} from '../../jobs/deadLetters.ts';
import { parseJob } from '../../jobs/jobs.ts';
import { connectNats, type Nats } from '../../nats/connection.ts';
import { newOperation } from '../../operations/operation.ts';
import { OperationStore } from '../../operations/operationStore.ts';
import type { Log } from '../../telemetry/logger.ts';
import { type Format, print as printResult, time as shortTime } from '../terminal/output.ts';
import { printable } from '../terminal/table.ts';

interface Common {
  config: Config;
  log: Log;
  stop: AbortSignal;
}

const print = (text: string) => process.stdout.write(text);

export async function listCommand({ config, log, stop }: Common, { format }: { format: Format }): Promise<void> {
  await using nats = await connect(config, log);
  const letters = await Array.fromAsync(listDeadLetters(nats, stop));
  const rows = letters.map(({ id, time, subject, code, reason }) => [
    String(id),
    shortTime(time.toISOString()),
    subject,
    code,
    reason,
  ]);
  printResult(format, {
    heading: ['ID', 'TIME (UTC)', 'SUBJECT', 'CODE', 'REASON'],
    rows,
    raw: letters.map(asJson),
    empty: 'there are no dead letters',
  });
}

export async function showCommand({ config, log }: Common, id: string, { format }: { format: Format }): Promise<void> {
  const number = letterId(id);
  await using nats = await connect(config, log);
  const letter = await getDeadLetter(nats, number);
  const { time, subject, operation, code, reason, headers } = letter;
  const lines: [string, string][] = [
    ['id', id],
    ['time', time.toISOString()],
    ['subject', subject],
    ['operation', operation],
    ['code', code],
    ['reason', reason],
    ...headers.map(([name, value]): [string, string] => ['header', `${name}: ${value}`]),
    ['body', bodyOf(letter).body],
  ];
  if (format !== 'table')
    return printResult(format, { heading: ['FIELD', 'VALUE'], rows: lines, raw: asJson(letter), empty: '' });
  for (const [name, value] of lines) print(`${`${name}:`.padEnd(11)}${printable(value)}\n`);
}

/** `all`: every dead letter that exists now, or those with this error code. */
export async function retryCommand(
  { config, log, stop }: Common,
  texts: string[],
  { all, code }: { all: boolean; code?: string },
): Promise<void> {
  const ids = texts.map(letterId);
  if (all === ids.length > 0) throw new LxstowError('bad-request', 'retry needs either ids or --all');
  if (code !== undefined && !all) throw new LxstowError('bad-request', '--code needs --all');
  await using nats = await connect(config, log);
  const operations = new OperationStore(nats, config.nats.operationsKeptHours);
  const again = async (letter: DeadLetter) => {
    const operation = await retryDeadLetter(nats, letter);
    await makeVisible(operation, letter, operations, log);
    print(`dead letter ${letter.id} is queued again as operation ${operation}\n`);
  };
  for (const id of ids) await again(await getDeadLetter(nats, id));
  if (!all) return;
  // List them before retrying any: a job that fails again becomes a new dead letter, which must not be retried again.
  const letters = (await Array.fromAsync(listDeadLetters(nats, stop))).filter(
    (letter) => code === undefined || letter.code === code,
  );
  for (const letter of letters) await again(letter);
  print(`${letters.length} dead letters queued again\n`);
}

export async function discardCommand(
  { config, log }: Common,
  texts: string[],
  { all }: { all: boolean },
): Promise<void> {
  const ids = texts.map(letterId);
  if (all === ids.length > 0) throw new LxstowError('bad-request', 'discard needs either ids or --all');
  await using nats = await connect(config, log);
  if (all) return void print(`${await discardAllDeadLetters(nats)} dead letters discarded\n`);
  for (const id of ids) {
    await getDeadLetter(nats, id);
    await discardDeadLetter(nats, id);
    print(`dead letter ${id} discarded\n`);
  }
}

function letterId(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text))
    throw new LxstowError('bad-request', `${JSON.stringify(text)} is not the id of a dead letter`);
  return Number(text);
}

/** Creates the operation now, so that it can be shown before a worker takes the job. */
async function makeVisible(id: string, letter: DeadLetter, operations: OperationStore, log: Log): Promise<void> {
  try {
    await operations.create(newOperation({ id, ...parseJob(letter) }, new Date()));
  } catch (error) {
    // A worker creates it later, and reports what is wrong with the message.
    log.debug('operation not written yet', { operation: id, error });
  }
}

function connect(config: Config, log: Log): Promise<Nats> {
  return connectNats(config.nats, 'lxstow dead-letters', log);
}

function asJson({ data, headers, ...letter }: DeadLetter): object {
  return { ...letter, headers, ...bodyOf({ data }) };
}

/** The body as text, or in base64 when it is not UTF-8. */
function bodyOf({ data }: Pick<DeadLetter, 'data'>): { body: string; encoding: 'utf-8' | 'base64' } {
  try {
    return { body: new TextDecoder('utf-8', { fatal: true }).decode(data), encoding: 'utf-8' };
  } catch {
    return { body: data.toString('base64'), encoding: 'base64' };
  }
}
