/** Follows operations to their end: progress, Ctrl-C, failures, exit status. */
import { setTimeout as delay } from 'node:timers/promises';
import { forEach } from '../../../concurrency/orderedMap.ts';
import { isFinal } from '../../../operations/operation.ts';
import { CliError, type Exit, exits } from '../../exit.ts';
import type { Progress, Step } from '../../terminal/progress.ts';
import { namesOf, printable } from '../../terminal/table.ts';
import type { Gateway, ShownOperation } from '../gatewayClient.ts';
import { throughOutage } from './patience.ts';

/** A requested backup or restore, and its state. */
export interface Followed {
  /** Names the instance in messages. */
  label: string;
  gateway: Gateway;
  operation?: ShownOperation;
  /** Why the request was refused, or its state can no longer be found out. */
  error?: CliError;
}

export const askingToCancel = 'Asking the gateway to cancel. Ctrl-C again leaves without waiting for it';

/** Up to this many operations are each waited for with a request of their own; if there are more, each is polled every second. */
const atOnce = 8;
const lookEveryMs = 1000;

/** Runs `each` on all, several at a time. An error is stored in its own item, and does not stop the others. */
export async function forAll<F extends Followed>(all: F[], each: (one: F) => Promise<unknown>): Promise<void> {
  await forEach(all, atOnce, async (one) => {
    try {
      await each(one);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      one.error = error;
    }
  });
}

/** Waits until all have ended. The first Ctrl-C cancels them, and the wait then continues until they are cancelled. */
export async function follow(
  all: Followed[],
  progress: Progress,
  interrupts: Pick<Interrupts, 'first'>,
): Promise<void> {
  let asked = false;
  for (;;) {
    progress.show(all.map(stepOf));
    const open = all.filter(({ operation, error }) => operation && !error && !isFinal(operation));
    if (open.length === 0) return;
    if (interrupts.first.aborted && !asked) {
      asked = true;
      await cancelAll(open, progress);
    }
    const wait = open.length <= atOnce;
    await forAll(open, (one) => refresh(one, wait, progress));
    if (!wait)
      await delay(lookEveryMs, undefined, { signal: asked ? undefined : interrupts.first }).catch(() => undefined);
  }
}

async function refresh(one: Followed, wait: boolean, progress: Progress): Promise<void> {
  const { gateway, operation } = one;
  const path = ['operations', operation?.id ?? '', ...(wait ? ['wait'] : [])];
  const ask = () => gateway.ask('GET', path, wait ? { query: { timeout: '1' } } : {});
  const hint = `${one.label} continues without this client: lxstow operations`;
  one.operation = await throughOutage(ask, (text) => progress.note(text), hint);
}

async function cancelAll(open: Followed[], progress: Progress): Promise<void> {
  progress.note(askingToCancel);
  for (const { gateway, operation, label } of open) {
    try {
      await gateway.ask('DELETE', ['operations', operation?.id ?? '']);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      // A 400 means that the operation has ended by now; the next answer will show it.
      if (error.exit !== exits.usage) progress.note(`${label} could not be cancelled: ${error.message}`);
    }
  }
}

export function stepOf({ label, operation, error }: Omit<Followed, 'gateway'>): Step {
  if (error) return { label, state: 'Failure', ended: true };
  if (!operation) return { label, state: 'waiting' };
  const { status, metadata } = operation;
  if (isFinal(operation)) return { label, state: status, ended: true };
  const { stage, bytes_done: done, bytes_total: total, bytes_per_second: rate } = metadata;
  const state = status === 'Running' ? (stage ?? status) : pendingState(operation);
  return { label, state, ...(status === 'Running' && { done, total, rate }) };
}

function pendingState({ status, metadata: { retry_reason, waiting_for } }: ShownOperation): string {
  if (waiting_for) return `waiting for ${waiting_for}`;
  return retry_reason ? `${status}, after: ${retry_reason.slice(0, 60)}` : status;
}

/** Why this one did not succeed; undefined when it did. */
export function failureOf({ operation, error }: Followed): string | undefined {
  if (error) return error.message;
  return operation && isFinal(operation) && operation.status !== 'Success'
    ? printable(operation.err) || operation.status
    : undefined;
}

/** The exit status for all: that of the failures if they all have the same one, otherwise 1. */
export function exitOfAll(all: Followed[], interrupts: Pick<Interrupts, 'first'>): Exit {
  const reasons = new Set(
    all.filter((one) => failureOf(one) !== undefined).map(({ error }) => error?.exit ?? exits.failed),
  );
  if (interrupts.first.aborted && reasons.size > 0) return exits.interrupted;
  const [reason, another] = reasons;
  return another === undefined ? (reason ?? exits.ok) : exits.failed;
}

/** Prints each failure on standard error, with a hint, and each warning. Equal failures are printed once, with all names. */
export function sayTroubles(all: Followed[]): void {
  const alike = new Map<string, string[]>();
  for (const one of all) {
    const failure = failureOf(one);
    if (failure === undefined) continue;
    const text = `${failure}\n${one.error?.hint ? `  ${one.error.hint}\n` : ''}`;
    alike.set(text, [...(alike.get(text) ?? []), one.label]);
  }
  for (const [text, labels] of alike) process.stderr.write(`lxstow: ${namesOf(labels)}: ${text}`);
  sayWarnings(all);
}

/** Prints each warning on standard error. */
export function sayWarnings(all: Pick<Followed, 'label' | 'operation'>[]): void {
  for (const { label, operation } of all)
    for (const warning of operation?.metadata.warnings ?? [])
      process.stderr.write(`lxstow: ${label}: ${printable(warning)}\n`);
}

interface Interrupts extends Disposable {
  /** Aborts at the first Ctrl-C. */
  readonly first: AbortSignal;
}

/** Catches Ctrl-C until disposed. The second one calls `leaving` and ends the process. */
export function heedInterrupts(leaving: () => void): Interrupts {
  const first = new AbortController();
  const heard = () => {
    if (!first.signal.aborted) return first.abort();
    leaving();
    process.exit(exits.interrupted);
  };
  process.on('SIGINT', heard);
  return { first: first.signal, [Symbol.dispose]: () => process.off('SIGINT', heard) };
}
