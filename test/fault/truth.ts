/** Rounds in which things go wrong at random moments: a backup and a restore side by side, and whether what their operations say is true. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Operation } from '../../services/contract/schemas.ts';
import { assertSame, type Stack } from '../integration/stack.ts';
import type { Answer } from '../lab/lxstow.ts';
import { assertNoInstance, assertOneBackup, assertRestores } from './workers.ts';

const { LXSTOW_LAB_FAULT_ROUNDS, LXSTOW_LAB_FAULT_SEED } = process.env;
/** How many: a few unless told, a hundred in `npm run test:fault`. */
export const rounds = Number(LXSTOW_LAB_FAULT_ROUNDS ?? 6);
/** Printed with each round; LXSTOW_LAB_FAULT_SEED repeats it. The short form is the same each time, the long one never. */
export const seed = Number(LXSTOW_LAB_FAULT_SEED ?? (LXSTOW_LAB_FAULT_ROUNDS ? randomInt(2 ** 31) : 1));
/** Far more than attempts, their delays and a takeover need: an operation that has not ended by then never will. */
export const roundMs = 300_000;

export class Dice {
  #state: number;

  /** The same numbers for the same seed: mulberry32. */
  constructor(from: number) {
    this.#state = from >>> 0;
  }

  between(low: number, high: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return low + (((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * (high - low);
  }

  pick<T>(choices: readonly [T, ...T[]]): T {
    return choices[Math.floor(this.between(0, choices.length))] ?? choices[0];
  }
}

interface Round {
  backup: Answer;
  restore: Answer;
  /** The instance that the restore makes. */
  target: string;
}

/** A backup of c2, and a restore of c1's backup `good` as `target`, accepted. */
export async function beginRound(stack: Stack, dice: Dice, good: string, target: string): Promise<Round> {
  const compression = dice.pick(['gzip', 'zstd', 'none']);
  const optimize = dice.pick(['true', 'false']);
  const [backup, restore] = await Promise.all([
    stack.stow.request('POST', `/1.0/instances/c2/backups?compression=${compression}&optimize=${optimize}`),
    stack.stow.request('POST', `/1.0/instances/c1/backups/${good}`, { body: { name: target } }),
  ]);
  for (const answer of [backup, restore]) assert.equal(answer.status, 202, answer.text);
  return { backup, restore, target };
}

/** Waits until both have ended; what succeeded must be the same files, what failed must not be there. Returns how they ended, in words. */
export async function assertTrue(stack: Stack, { backup, restore, target }: Round): Promise<string> {
  const [made, restored] = [await ended(stack, backup), await ended(stack, restore)];
  await assertBackupTrue(stack, backup, made);
  await assertRestoreTrue(stack, target, restored);
  const words = ({ status, err }: Operation) => status + (err && `: ${err.slice(0, 300)}`);
  return `backup ${words(made)}; restore ${words(restored)}`;
}

/** The operation's end, whoever is away meanwhile. */
async function ended(stack: Stack, answer: Answer): Promise<Operation> {
  const over = AbortSignal.timeout(roundMs);
  for (;;) {
    assert.ok(!over.aborted, `${answer.body.operation} has not ended in ${inSeconds(roundMs)}`);
    const shown = await stack.stow.request('GET', answer.body.operation).catch(() => undefined);
    assert.notEqual(shown?.status, 404, `what was accepted is not known any more: ${shown?.text}`);
    const operation = shown?.body.metadata as Operation | undefined;
    if (shown?.status === 200 && operation && operation.status_code >= 200) return operation;
    await delay(100);
  }
}

async function assertBackupTrue(stack: Stack, answer: Answer, operation: Operation): Promise<void> {
  const { name } = answer.body.metadata;
  const path = `/1.0/instances/c2/backups/${name}`;
  if (operation.status === 'Success') {
    await assertOneBackup(stack, 'c2', name, operation.id);
    await assertRestores(stack, 'c2', name, await stack.fingerprint('c2'));
    assert.equal((await stack.stow.request('DELETE', path)).status, 200);
    return;
  }
  assert.equal(operation.status, 'Failure');
  assert.notEqual(operation.err, '');
  assert.equal((await stack.stow.request('GET', path)).status, 404);
  const listed = (await stack.stow.request('GET', '/1.0/instances/c2/backups')).body.metadata ?? [];
  assert.ok(!listed.some((each: { name: string }) => each.name === name));
}

async function assertRestoreTrue(stack: Stack, target: string, operation: Operation): Promise<void> {
  if (operation.status === 'Success') {
    assertSame(await stack.fingerprint(target), await stack.fingerprint('c1'));
    return stack.remove(target);
  }
  assert.equal(operation.status, 'Failure');
  assert.notEqual(operation.err, '');
  await assertNoInstance(stack, target);
}

export function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
