/**
 * LXD's filter language: `status eq Running and not name eq "c.*"`, read from left to right, `and` and `or` alike; also in the short
 * form `status=Running`. Its cost is computed, and limited, before it is evaluated.
 */
import { setImmediate } from 'node:timers/promises';
import { RE2JS } from 're2js';
import { LxstowError } from '../../contract/errors.ts';
import { programSizeOf } from './patternSize.ts';

const operators = ['eq', 'ne', 'gt', 'ge', 'lt', 'le'] as const;
type Operator = (typeof operators)[number];

interface Clause {
  or: boolean;
  not: boolean;
  matches(object: object): boolean;
}

type Filter = (object: object) => boolean;

/** A clause in the short form, a quoted text, or a word. */
const tokens = /([^\s"'=!]+)(!?=)("[^"]*"|'[^']*'|\S+)|"[^"]*"|'[^']*'|\S+/g;
/** Longer than anything that a person writes by hand, or that lxc makes from its arguments. */
const longestFilter = 1000;
/** Instructions of all patterns of a filter together; `(c1$|^c1.*)`, which lxc makes of a name, has 15. */
export const largestProgram = 1000;
/**
 * A step is one instruction for one character of text: RE2's worst case. A step costs up to 0.5 µs, measured with hostile patterns; what people
 * write costs a hundredth. `stepsAtOnce`, the limit for one value, is about 50 ms then.
 */
export const stepsAtOnce = 100_000;
/** For all the objects of a list. */
export const mostSteps = 10_000_000;
/** How long matching may keep other requests waiting: there are costs besides steps. */
const longestTurnMs = 20;

/** Steps that matching has taken, of all objects so far. */
interface Spent {
  steps: number;
}

/** The items that match. Throws as `listFilter` and its result do. */
export async function filtered<T extends object>(items: T[], text: string | undefined): Promise<T[]> {
  return listFilter(text)(items);
}

/**
 * Parses a filter for a list that comes in batches; the result returns the matching items of a batch. It pauses after each `stepsAtOnce` and
 * `longestTurnMs`, so that other requests get their turn. Throws bad-request as `parseFilter` does; the result does, for more than `mostSteps` in all batches together.
 */
export function listFilter(text: string | undefined): <T extends object>(batch: T[]) => Promise<T[]> {
  const spent: Spent = { steps: 0 };
  const matches = parseFilter(text, spent);
  let turn = { steps: 0, at: performance.now() };
  return async <T extends object>(batch: T[]) => {
    const found: T[] = [];
    for (const item of batch) {
      if (matches(item)) found.push(item);
      if (spent.steps < turn.steps + stepsAtOnce && performance.now() < turn.at + longestTurnMs) continue;
      await setImmediate();
      turn = { steps: spent.steps, at: performance.now() };
    }
    return found;
  };
}

/** Parses a filter. Throws bad-request with what is wrong. Without a text, everything matches. */
export function parseFilter(text: string | undefined, spent: Spent = { steps: 0 }): Filter {
  if (text === undefined) return () => true;
  if (text.length > longestFilter) throw refused(`it is longer than ${longestFilter} characters`);
  const words = [...text.matchAll(tokens)];
  const clauses: Clause[] = [];
  const budget: Budget = { instructions: largestProgram, spent };
  for (let or = false; ; ) {
    clauses.push(parseClause(words, or, budget));
    const logical = words.shift()?.[0].toLowerCase();
    if (logical === undefined) break;
    if (logical !== 'and' && logical !== 'or') throw refused(`"and" or "or" is missing before ${logical}`);
    or = logical === 'or';
  }
  return (object) => {
    let result = true;
    for (const { or, not, matches } of clauses) {
      const matched = matches(object) !== not;
      result = or ? result || matched : result && matched;
    }
    return result;
  };
}

/** What a filter's patterns share. */
interface Budget {
  /** Instructions left for patterns that are not compiled yet. */
  instructions: number;
  spent: Spent;
}

/** Parses the first clause, and removes it from the words. */
function parseClause(words: RegExpExecArray[], or: boolean, budget: Budget): Clause {
  const next = (what: string) => words.shift() ?? refuse(`${what} is missing`);
  let first = next('a clause');
  const not = first[0].toLowerCase() === 'not';
  if (not) first = next('what follows "not"');
  const [, shortField, sign, shortValue] = first;
  if (shortField !== undefined && shortValue !== undefined)
    return { or, not, matches: comparison(shortField, sign === '=' ? 'eq' : 'ne', unquoted(shortValue), budget) };
  const operator = next('an operator')[0].toLowerCase();
  if (!isOperator(operator)) throw refused(`${operator} is not one of ${operators.join(', ')}`);
  return { or, not, matches: comparison(first[0], operator, unquoted(next('a value')[0]), budget) };
}

function comparison(field: string, operator: Operator, wanted: string, budget: Budget): (object: object) => boolean {
  const matchesText = textMatcher(wanted, budget);
  return (object) => {
    const value = fieldOf(object, field);
    const equal = operator === 'eq' || operator === 'ne';
    if (typeof value === 'number') return compared(value, operator, Number(wanted));
    if (value === undefined || value === null) return false;
    if (!equal) throw refused(`${operator} is for numbers, and ${field} is not a number`);
    return isEqual(value, wanted, matchesText) === (operator === 'eq');
  };
}

function isEqual(value: unknown, wanted: string, matchesText: (text: string) => boolean): boolean {
  if (typeof value === 'string') return matchesText(value);
  if (typeof value === 'boolean') return String(value) === wanted.toLowerCase();
  return JSON.stringify(value) === wanted;
}

/**
 * Matches as LXD does: by a regular expression in Go's syntax, against the whole value unless it has ^ or $, ignoring case. A text that is no valid pattern is
 * compared as it is. Throws bad-request if the pattern's program is too large; the matcher does so if a value is too long for it.
 */
function textMatcher(wanted: string, budget: Budget): (text: string) => boolean {
  const same = (text: string) => text.toLowerCase() === wanted.toLowerCase();
  if (/^[\w \-/:@]*$/.test(wanted)) return same;
  const whole = /[$^]/.test(wanted) ? wanted : `^${wanted}$`;
  const size = programSizeOf(whole);
  budget.instructions -= size;
  if (budget.instructions < 0) throw refused(`its patterns are too large: more than ${largestProgram} instructions`);
  let pattern: RE2JS;
  try {
    pattern = RE2JS.compile(whole, RE2JS.CASE_INSENSITIVE);
  } catch {
    return same;
  }
  return (text) => {
    const steps = size * text.length;
    if (steps > stepsAtOnce) throw refused(`a value of ${text.length} characters is too long for its pattern`);
    budget.spent.steps += steps;
    if (budget.spent.steps > mostSteps)
      throw refused('it is too expensive for so many entries: make it narrower, or ask for one project');
    return pattern.test(text);
  };
}

function compared(value: number, operator: Operator, wanted: number): boolean {
  if (Number.isNaN(wanted)) throw refused('a number is compared with something that is not a number');
  const results = {
    eq: value === wanted,
    ne: value !== wanted,
    gt: value > wanted,
    ge: value >= wanted,
    lt: value < wanted,
    le: value <= wanted,
  };
  return results[operator];
}

/** The value at a dotted path. The keys of LXD's config contain dots themselves; a key that is not set has the empty text. */
function fieldOf(object: unknown, path: string): unknown {
  if (typeof object !== 'object' || object === null) return undefined;
  if (Object.hasOwn(object, path)) return (object as Record<string, unknown>)[path];
  for (let dot = path.indexOf('.'); dot !== -1; dot = path.indexOf('.', dot + 1)) {
    const key = path.slice(0, dot);
    if (!Object.hasOwn(object, key)) continue;
    const rest = path.slice(dot + 1);
    return fieldOf((object as Record<string, unknown>)[key], rest) ?? (key.endsWith('config') ? '' : undefined);
  }
  return undefined;
}

function isOperator(word: string): word is Operator {
  return (operators as readonly string[]).includes(word);
}

function unquoted(value: string): string {
  return /^(["']).*\1$/.test(value) && value.length > 1 ? value.slice(1, -1) : value;
}

function refuse(why: string): never {
  throw refused(why);
}

function refused(why: string): LxstowError {
  return new LxstowError('bad-request', `?filter=: ${why}`);
}
