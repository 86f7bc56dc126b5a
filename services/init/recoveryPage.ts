/** The page that must be kept elsewhere: with it and the store, everything is restored on another machine. */
import { readFileSync } from 'node:fs';
import { readFile, rename } from 'node:fs/promises';
import { hostname } from 'node:os';
import { variableOf } from '../contract/config.ts';
import { type Access, placeText, type Store } from './initAnswers.ts';
import { type Places, writeSecret } from './places.ts';

interface Found {
  store: Store;
  access: Access;
}

/** Writes the page. A page of another store is kept next to it, because it may be the last copy of that store's keys. */
export async function writePage({ page }: Places, found: Found): Promise<void> {
  const now = new Date();
  const old = await readFile(page, 'utf8').catch(() => undefined);
  // The whole end of a line: another place may begin with the same text.
  const isSame = old?.split('\n').some((line) => line.endsWith(placeLine(found)));
  if (old !== undefined && !isSame) await rename(page, freeName(page, now));
  await writeSecret(page, recoveryPage(found, now));
}

/** `recovery.md` → `recovery-2026-11-29T0300.md` */
function freeName(page: string, now: Date): string {
  return page.replace(/\.md$/, `-${now.toISOString().slice(0, 19).replaceAll(':', '')}.md`);
}

function placeLine({ store, access: { prefix } }: Found): string {
  return `Backups are in ${placeText(store)}${prefix ? `, with the prefix ${prefix}` : ''}.`;
}

export function recoveryPage(found: Found, written: Date): string {
  const { store } = found;
  const kept =
    'folder' in store
      ? `You need this page, and the folder \`${store.folder}\` of ${hostname()} or a copy of it. It has no password: protect it as you protect the instances.`
      : 'Besides the store you need only this page. It contains the keys: keep it as you keep passwords.';
  return `# How to restore the backups of ${hostname()}

Written by \`lxstow init\` on ${written.toISOString().slice(0, 10)}. ${placeLine(found)}
Keep this page away from ${hostname()}: printed, or with your passwords. ${kept}

On another machine with LXD or Incus, initialised, install lxstow (docs/install.md). Then, as root:

\`\`\`sh
${commandsFor(found)}
lxstow list --all
lxstow restore --all --all-projects --start
\`\`\`

Projects, networks and custom volumes are not in backups: create them before the last command, which can be repeated. It restores the latest
backup of each instance; existing instances are not touched. One instance alone: \`lxstow restore NAME latest\`. A backup is an ordinary
.tar.gz in the store; \`tar\` and \`lxc import\` read it without lxstow.
`;
}

function commandsFor({ store, access }: Found): string {
  const init = (place: string) => `lxstow init --yes --store ${quoted(place)} --no-nightly --backup none`;
  if ('folder' in store) return withVariables(access, `${init(store.folder)}    # where the folder is mounted`);
  const { endpoint, bucket, region, accessKey, secretKey, ca } = store;
  const file = 'lxstow-ca.crt';
  const command = `${init(`${endpoint}/${bucket}`)} --region ${quoted(region)}${ca === undefined ? '' : ` --ca ${file}`}`;
  return [
    ...(ca === undefined ? [] : [`cat >${file} <<'END'\n${readFileSync(ca, 'utf8').trimEnd()}\nEND`]),
    withVariables({ accessKey, secretKey, ...access }, command),
  ].join('\n');
}

/** The command, with these keys of `s3` in its environment. */
function withVariables(keys: object, command: string): string {
  const variables = Object.entries(keys).map(([key, value]) => [variableOf(['s3', key]), quoted(String(value))]);
  if (variables.length === 0) return command;
  const names = variables.map(([name]) => name).join(' ');
  return [`export ${variables.map((pair) => pair.join('=')).join(' ')}`, command, `unset ${names}`].join('\n');
}

function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
