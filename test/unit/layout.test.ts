/** docs/layout.ts finds what it is to find: a check of the layout that cannot fail would not be missed. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { faultsOfLayout, floorsIn, needlessExports } from '../../docs/layout.ts';

const floors = floorsIn(`
## Before
| \`no\` | no floor |
## Floors
| folder | what it is about |
|:--|:--|
| \`cli\` | |
| \`gateway\` | \`routes/\` |
| \`lxd\` | |
| \`contract\` | |
## After
| \`neither\` | |
`);

/** The faults of a layout that is sound but for these files. */
function faultsWith(changed: Record<string, string>): string[] {
  const sound = {
    'services/cli/main.ts': "await import('../gateway/main.ts'); import './commands/lxd.ts';",
    'services/cli/commands/lxd.ts': "import { a } from '../../lxd/client.ts';",
    'services/gateway/main.ts': "import type { B } from './routes/lxd.ts';",
    'services/gateway/routes/lxd.ts': "new URL('../../lxd/thread.ts', import.meta.url);",
    'services/lxd/client.ts': "import { check } from '../contract/schemas.ts';",
    'services/contract/schemas.ts': "import names from '../../schemas/names.json' with { type: 'json' };",
  };
  return faultsOfLayout(new Map(Object.entries({ ...sound, ...changed })), floors);
}

describe('the layout', () => {
  it('has its floors from the table', () => assert.deepEqual(floors, ['cli', 'gateway', 'lxd', 'contract']));
  it('is sound', () => assert.deepEqual(faultsWith({}), []));

  const faults: [string, Record<string, string>, RegExp][] = [
    ['an import upward', { 'services/lxd/a.ts': "import { b } from '../cli/main.ts';" }, /cli stands above lxd/],
    ['a type from above', { 'services/lxd/a.ts': "import type { B } from '../cli/main.ts';" }, /cli stands above lxd/],
    ['a late import upward', { 'services/lxd/a.ts': "await import('../cli/main.ts')" }, /cli stands above lxd/],
    ['a part of a program', { 'services/cli/a.ts': "import '../gateway/routes/lxd.ts';" }, /gateway is a program/],
    [
      'a schema read elsewhere',
      { 'services/lxd/a.ts': "import s from '../../schemas/a.json'" },
      /only contract imports/,
    ],
    ['a page of docs', { 'services/contract/a.ts': "import s from '../../docs/openapi.json'" }, /only schemas/],
    ['a name used twice', { 'services/lxd/schemas.ts': '' }, /a file name is used once/],
    ['a loose file', { 'services/loose.ts': '' }, /loose\.ts: not in docs\/architecture\.md/],
    ['a folder that has no floor', { 'services/more/a.ts': '' }, /more: not in docs\/architecture\.md/],
  ];
  for (const [what, changed, fault] of faults)
    it(`may not have ${what}`, () => {
      const found = faultsWith(changed);
      assert.equal(found.length, 1, found.join('\n'));
      assert.match(found[0] ?? '', fault);
    });

  it('may not have an export that no file imports', () => {
    const files = {
      'services/a.ts': 'export const used = 1;\nexport async function late() {}\nexport interface Own {}',
      'services/b.ts': "import { used } from './a.ts'; const { late } = await import('./a.ts');",
      'test/c.ts': 'const Own = 1;',
      'test/setup.ts': 'export async function globalSetup() {}',
    };
    assert.deepEqual(needlessExports(new Map(Object.entries(files))), [
      'services/a.ts: Own is exported, but no other file uses it',
    ]);
  });

  it('has files on each floor', () => {
    assert.deepEqual(faultsOfLayout(new Map(), ['lxd']), ['services/lxd: a floor without files']);
  });
});
