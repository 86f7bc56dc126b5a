/**
 * LXD's filter language: `status eq Running and not name eq "c.*"`, read from left to right, `and` and `or` alike; also in the short
 * form `status=Running`. Pure.
 */
import { RE2JS } from 're2js';
import { LxstowError } from '../errors.ts';

const operators = ['eq', 'ne', 'gt', 'ge', 'lt', 'le'] as const;
type Operator = (typeof operators)[number];

interface Clause {
  or: boolean;
  not: boolean;
  matches(object: object): boolean;
}

export type Filter = (object: object) => boolean;

/** A clause in the short form, a quoted text, or a word. */
const tokens = /([^\s"'=!]+)(!?=)("[^"]*"|'[^']*'|\S+)|"[^"]*"|'[^']*'|\S+/g;
/** What anybody writes by hand or lxc makes of its arguments; what is compiled of it stays small. */
const longestFilter = 1000;

/** Throws bad-request, and says what is wrong. Without a text everything matches. */
export function parseFilter(text: string | undefined): Filter {
  if (text === undefined) return () => true;
  if (text.length > longestFilter) throw refused(`it is longer than ${longestFilter} characters`);
  const words = [...text.matchAll(tokens)];
  const clauses: Clause[] = [];
  for (let or = false; ; ) {
    clauses.push(parseClause(words, or));
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

/** Takes a clause off the words. */
function parseClause(words: RegExpExecArray[], or: boolean): Clause {
  const next = (what: string) => words.shift() ?? refuse(`${what} is missing`);
  let first = next('a clause');
  const not = first[0].toLowerCase() === 'not';
  if (not) first = next('what follows "not"');
  const [, shortField, sign, shortValue] = first;
  if (shortField !== undefined && shortValue !== undefined)
    return { or, not, matches: comparison(shortField, sign === '=' ? 'eq' : 'ne', unquoted(shortValue)) };
  const operator = next('an operator')[0].toLowerCase();
  if (!isOperator(operator)) throw refused(`${operator} is none of ${operators.join(', ')}`);
  return { or, not, matches: comparison(first[0], operator, unquoted(next('a value')[0])) };
}

function comparison(field: string, operator: Operator, wanted: string): (object: object) => boolean {
  const pattern = patternOf(wanted);
  return (object) => {
    const value = fieldOf(object, field);
    const equal = operator === 'eq' || operator === 'ne';
    if (typeof value === 'number') return compared(value, operator, Number(wanted));
    if (value === undefined || value === null) return false;
    if (!equal) throw refused(`${operator} is for numbers, and ${field} is none`);
    return isEqual(value, wanted, pattern) === (operator === 'eq');
  };
}

function isEqual(value: unknown, wanted: string, pattern: RE2JS | undefined): boolean {
  if (typeof value === 'string') return pattern?.test(value) ?? value.toLowerCase() === wanted.toLowerCase();
  if (typeof value === 'boolean') return String(value) === wanted.toLowerCase();
  return JSON.stringify(value) === wanted;
}

/** As LXD takes it: a regular expression of Go's, of the whole value unless it says otherwise, whatever the case. */
function patternOf(wanted: string): RE2JS | undefined {
  const whole = /[$^]/.test(wanted) ? wanted : `^${wanted}$`;
  try {
    return RE2JS.compile(whole, RE2JS.CASE_INSENSITIVE);
  } catch {
    return undefined;
  }
}

function compared(value: number, operator: Operator, wanted: number): boolean {
  if (Number.isNaN(wanted)) throw refused('a number is compared with what is none');
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

/** The value at a path with dots. The keys of LXD's config have dots of their own; one that is not set is the empty text. */
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
