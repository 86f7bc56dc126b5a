/** `lxstow list`, `info` and `delete`. */
import type { ListedBackup } from '../../contract/schemas.ts';
import type { ShownOperation } from '../client/gatewayClient.ts';
import { backupName, Gateways, listBackups, type Scope, suggesting } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { parseTime } from '../terminal/dates.ts';
import { sayKept } from '../terminal/oldVersions.ts';
import { type Format, people, print, size, time } from '../terminal/output.ts';

interface Options extends Scope {
  format: Format;
}

interface ListOptions extends Options {
  all?: boolean;
  tag: string[];
  before?: string;
}

export async function listCommand(text: string | undefined, options: ListOptions): Promise<Exit> {
  const { all = false } = options;
  using gateways = new Gateways();
  const named = await gateways.instance(text ?? '', options);
  if (all && named.instance !== '') throw new CliError(exits.usage, 'give either an instance or --all, not both');
  const where = all ? { ...named, scope: { project: options.project, target: options.target ?? '*' } } : named;
  const fits = selected(options);
  const listed = await suggesting(where, undefined, () => listBackups(where, all && options.project === undefined));
  const found = listed.filter(fits);
  const rows = found.map((backup) => {
    const { location, project, instance, name, created, size: bytes, optimized, tags } = backup;
    const tagged = Object.entries(tags).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
    const marks = [...protectionOf(backup), ...tagged].join(' ');
    const row = [instance, name, time(created), size(bytes), optimized ? 'yes' : 'no', marks];
    return all ? [location, project, ...row] : row;
  });
  const heading = ['INSTANCE', 'BACKUP', 'CREATED (UTC)', 'SIZE', 'OPTIMIZED', 'TAGS'];
  print(options.format, {
    heading: all ? ['HOST', 'PROJECT', ...heading] : heading,
    rows,
    raw: found,
    empty: emptyOf(where.instance, listed.length > 0),
  });
  return exits.ok;
}

/** `(pinned)`, `(held)`, `(locked until 2026-12-28)`. */
function protectionOf({ pinned, held, locked_until }: ListedBackup): string[] {
  const isLocked = locked_until && Date.parse(locked_until) > Date.now();
  return [
    ...(held ? ['(held)'] : pinned ? ['(pinned)'] : []),
    ...(isLocked ? [`(locked until ${locked_until.slice(0, 10)})`] : []),
  ];
}

function emptyOf(instance: string, others: boolean): string {
  if (others) return 'there are no such backups';
  return instance === '' ? 'there are no backups' : `${instance} has no backups`;
}

/** A filter by `--tag key`, `--tag key=value` (all must match) and `--before`. */
function selected({ tag, before }: ListOptions): (backup: ListedBackup) => boolean {
  const wanted = tag.map((text) => {
    const cut = text.indexOf('=');
    return cut < 0 ? ([text, undefined] as const) : ([text.slice(0, cut), text.slice(cut + 1)] as const);
  });
  const until = before === undefined ? undefined : parseTime(before, '--before').getTime();
  return ({ tags, created }) =>
    wanted.every(([key, value]) => Object.hasOwn(tags, key) && (value === undefined || tags[key] === value)) &&
    (until === undefined || Date.parse(created) < until);
}

export async function infoCommand(text: string, wanted: string, options: Options): Promise<Exit> {
  using gateways = new Gateways();
  const where = await gateways.oneInstance(text, options);
  const { gateway, instance, scope } = where;
  const name = await suggesting(where, undefined, () => backupName(where, wanted));
  const found: Record<string, unknown> = await suggesting(where, name, () =>
    gateway.ask('GET', ['instances', instance, 'backups', name], { query: scope }),
  );
  const rows = Object.entries(found).map(([key, value]) => [
    key,
    typeof value === 'object' ? JSON.stringify(value) : String(value),
  ]);
  if (options.format !== 'table') print(options.format, { heading: ['FIELD', 'VALUE'], rows, raw: found, empty: '' });
  else process.stdout.write(people(found));
  return exits.ok;
}

export async function deleteCommand(text: string, names: string[], options: Scope): Promise<Exit> {
  if (names.includes('latest'))
    throw new CliError(exits.usage, 'delete does not accept `latest`: running it twice would delete a second backup', {
      hint: `lxstow list ${text}`,
    });
  using gateways = new Gateways();
  const where = await gateways.oneInstance(text, options);
  const { gateway, instance, scope } = where;
  const failures: CliError[] = [];
  for (const name of names) {
    try {
      const { metadata }: ShownOperation = await suggesting(where, name, () =>
        gateway.ask('DELETE', ['instances', instance, 'backups', name], { query: scope }),
      );
      process.stdout.write(`${instance}/${name} is deleted\n`);
      sayKept(metadata.bytes_in_old_versions);
    } catch (error) {
      if (!(error instanceof CliError) || names.length === 1) throw error;
      failures.push(error);
      process.stderr.write(`lxstow: ${error.message}\n${error.hint ? `  ${error.hint}\n` : ''}`);
    }
  }
  return failures.length > 0 ? exits.failed : exits.ok;
}
