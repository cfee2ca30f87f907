"""Expressions and templates in numbers, for goldens: a list of hand-written ones, and values of all
kinds under every filter, method, test and operator that Jinja2 documents, of which a seed takes some.

What this engine does otherwise on purpose stands in DIFFERENCES, by the reason.
"""

# ruff: noqa: E501 - a template stands on one line

import itertools
import random

CONTEXT = {
    "x": {
        "a": 2,
        "b": 1,
        "l": [3, 1, 2],
        "k": "key",
        "m": [{"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 0}],
    },
    "xs": [1, 2, 3],
    "ms": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
}

# One a line.
EXPRESSIONS = r"""
-x.a
-x.a.b
-x['a']
-x.l[1]
- x.a + 1
-x.a**2
-2**2
2**-1
2**3**2
-x.a|abs
not x.a
not x.a == 2
-1|abs
(-1)|abs
-x.a|string
+x.a
- -x.a
1 - -x.a
3 -x.a
x.a -1
x.l[-1]
x.l[-x.b]
-x.l|length
-(x.a)
(-x.a)
[-x.a, -x.b]
{'a': -x.a}
f(-x.a)
-x.l[0]|abs
-x.l[0] is odd
-'a'|length
-x.a ~ 'b'
1 if x.a else 2
1 if 0 if 1 else 2 else 3
1 if 0
'x' ~ (1 if 0)
'a' 'b'
'a' 'b' 'c'
"a" 'b'
'a' 'b'|upper
1_0
0x1F
0X1f
0b11
0o17
1.
.5
1.5e3
1e-3
1_000.5
1E5
1e+5
1__0
01
00
1e400
'\d'
'\x41'
'\u00e9'
'\U0001F600'
'\101'
'\0'
'\08'
'\377'
'\777'
'\N{BULLET}'
'\a\b\f\v'
'a\tb\nc\rd'
'\''
"\""
'\/'
'\q\ '
"\ud83d\ude00"
'\xe9é'
'\\n'
'\\\\'
'\xZZ'
'\u12'
'\U00110000'
1 < 2 < 3
1 < 3 < 2
1 == 1.0 == true
1 in [1] == true
1 < 2 > 1
1 < 'a'
1 < 'a' if 0 else 2
1 == 'a'
[1] == (1,)
(1,2) == [1,2]
(1,2) == (1,2)
[(1,2)] == [[1,2]]
{'a': (1,)} == {'a': [1]}
[1, 2] < [1, 3]
[1, 'a'] < [1, 2]
[1] < (2,)
(1,) < (2,)
{} < {}
none < 1
none == false
none < none
'a' < 'b'
'a' < none
1 < 1.5
true < 2
1 < x.missing
x.missing == x.nope
x.missing == ''
x.missing == none
x.missing < x.nope
x.missing in [x.nope]
1 in 5
1 in none
1 in x.missing
'a' in 'abc'
1 in 'abc'
none in 'abc'
'' in 'abc'
'a' in {'a': 1}
1 in {1: 2}
[1] in [[1]]
(1,) in [[1]]
1.0 in [1]
true in [1]
'1' in [1]
not 1 in [2]
1 not in [2]
not not 1
1 is not none
1 is none or 2
x is mapping and x.a
2 is divisibleby 2
2 is divisibleby(2) and 1
4 is not divisibleby 3
'a' is in ['a']
1 is sameas 1
1 is sameas 1.0
true is sameas true
1 is sameas true
'a' is sameas 'a'
none is sameas none
x is sameas x
[] is sameas []
1 is eq 1
1 is == 1
1 is lessthan 2
1 is lt 'a'
'a' is filter
'upper' is filter
'odd' is test
x.l is sequence
x.f is callable
range is callable
1 + 2 ~ 3
1 ~ 2 + 3
2 * 3 ~ 4
'a' ~ 1 * 2
'a' * 2 ~ 'b'
1 + 2 * 3
(1 + 2) * 3
7 // 2 * 2
7 % 4 * 2
2 ** 2 * 3
2 * 2 ** 3
-2 ** 2
[1, 2,]
(1, 2,)
{'a': 1,}
{'a': {'b': [1, (2,)]}}
{1: 'a', none: 'b', true: 'c'}
{1: 'a', 1.0: 'b'}
{1: 'a', '1': 'b'}
{x.k: 1}
{'a': 1, 'a': 2}
{[1]: 2}
{(1,): 2}
{{}: 2}
x.missing
x['missing']
x.missing.more
missing.more
missing['a']
missing()
x.missing()
x.a()
x.l.0
x.l[0]
x['l'][0]
x.l['0']
x.l[x.b]
x[none]
x[1]
x[[]]
x.l[1.0]
x.l[true]
'abc'[true]
'abc'[1]
'abc'[-1]
'abc'[5]
'abc'[1:]
'abc'[::-1]
'abc'.0
'abc'[0:2][1]
x.l[5]
x.l[-5]
x.l[:]
x.l[1:none]
x.l|length > 1
x.l|first|string
true
True
TRUE
null
x.a if x.a is defined else 'z'
(x.a, x.b)
((1,),)
1,2
1,
range(3)
range(2, 5)|list
range(5, 0, -2)|list
range(0)|list
range(100001)
range(100000)|length
range(3)[1]
range(3)[-1]
range(3)[5]
range(3)[1:]
range(10)[::2]
range(3)|last
range(3)|first
range(3)|length
2 in range(3)
range(3) == range(3)
range(3) == [0,1,2]
range(0) == range(2,1)
range(3) + [1]
range(3) is sequence
range(3) is iterable
range(1.5)
range('a')
range(1,2,0)
range()
range(-1)|list
range(3)|reverse|list
range(3)|sum
range(3)|random
range(3)|tojson
range(3)|list|tojson
dict(a=1, b=2)
dict({'a': 1}, b=2)
dict([('a', 1)])
dict([['a', 1]], c=3)
dict(a=1).a
dict(1)
dict(x.items())
namespace(a=1).a
namespace({'a': 1}, b=2).b
namespace([('a', 1)]).a
namespace().q
namespace(a=1)
namespace(a=1)['a']
namespace(a=1) is mapping
cycler('a','b').next()
cycler('a','b').current
cycler()
joiner(',')()
list()
str(1)
int('3')
len([1])
x.l.append(3)
x.update({})
x.pop('a')
x.get('a')
x.get('q')
x.get('q', 7)
x.get()
x.keys()
x.keys()|list
x.keys()|sort
x.values()|list
x.items()
x.items()|list
x.items()|first
(x.items()|list)[0][1]
x.keys()|length
x.keys()|join(',')
'a' in x.keys()
2 in x.values()
('a', 2) in x.items()
x.keys() == x.keys()
x.items() == x.items()|list
x.keys()[0]
x.values()|sum
x.items()|map('first')|list
x.keys() is sequence
x.keys() is iterable
x.keys() is mapping
x.keys()|tojson
x.keys()|list|tojson
x.items
x.items|string|length > 0
[] + x.keys()
x.keys() + []
x|items|list
x|items
x|list
x|first
x|last
x|reverse|list
x|sort
x|length
'%s' % 'a'
'%s %s' % ('a', 1)
'%d%%' % 5
'%5.2f|' % 3.14159
'%-5s|' % 'a'
'%05d' % 42
'%+d' % 3
'% d' % 3
'%x' % 255
'%X' % 255
'%#x' % 255
'%#X' % 255
'%o' % 8
'%#o' % 8
'%e' % 12345.678
'%E' % 0.00012
'%.0e' % 12345.678
'%g' % 1e10
'%G' % 1e-10
'%g' % 100000
'%g' % 1234567
'%.3g' % 3.14159
'%#.3g' % 1.0
'%#g' % 1.0
'%.0g' % 123.0
'%g' % 0
'%g' % 0.0001
'%c' % 'a'
'%c' % 97
'%c' % 'ab'
'%c' % -1
'%r' % 'a'
'%r' % ['a', "it's", none]
'%a' % 'é'
'%s' % none
'%s' % [1]
'%s' % {'a': 1}
'%s %s' % [1, 2]
'%s' % (1,)
'%s' % ((1,2),)
'%s' % (1, 2)
'a' % (1,)
'a' % 1
'a' % []
'a' % {}
'a' % {'b': 1}
'%(a)s %(b)05d' % {'a': 1, 'b': 2}
'%(a)s' % {}
'%(a)s' % 1
'%(a)s %s' % {'a': 1}
'%(a.b)s' % {'a.b': 1}
'%s' % {'a': 'x'}
'%*d' % (5, 3)
'%-*d|' % (5, 3)
'%*d|' % (-5, 3)
'%.*f' % (2, 3.14159)
'%*s' % ('a', 'b')
'%i' % 3.9
'%u' % 3
'%d' % -3.9
'%d' % 'a'
'%d' % none
'%d' % true
'%s' % true
'%f' % 1
'%f' % true
'%f' % 'a'
'%.2s' % 'abc'
'%5.1s|' % 'abc'
'%-5.1s|' % 'abc'
'%.1r' % 'abc'
'%z' % 1
'%' % 1
'%%' % ()
'%s' % ()
'%ld' % 3
'%hd' % 3
'%Ld' % 3
'%5%' % ()
'%x' % -255
'%x' % 1.5
'%x' % 'a'
'%.0f' % 2.5
'%.0f' % 3.5
'%.0f' % 0.5
'%#.0f' % 2.5
'%+.1e' % 0
'%d' % 1e20
'%d' % 10**20
'%010.3f' % -3.14159
'%-010d|' % 3
'% 05d' % 3
'%+05d' % 3
'%.5d' % 42
'%8.5d|' % 42
'%-8.5d|' % 42
'%.5x' % 42
'%#.5x' % 42
'%s' % x.missing
'%d' % x.missing
'%f' % 1e400
'%F' % 1e400
'%g' % -1e400
'%05f' % 1e400
'%f' % 1e308
'%.20f' % 0.1
'%.50g' % 0.1
'%s' % 'é😀'
'%6s|' % '😀'
'%s and %s'|format('a', 'b')
'%s'|format
'%s'|format(1, 2)
'%(a)s'|format(a=1)
'%(a)s'|format(b=1)
'%s'|format('a', b=1)
'{}'.format(1)
'{} {}'.format(1, 'a')
'{0} {1} {0}'.format(1, 2)
'{} {0}'.format(1)
'{a}'.format(a=1)
'{a} {}'.format(2, a=1)
'{}'.format()
'{1}'.format(1)
'{b}'.format(a=1)
'{{}}'.format()
'{'.format()
'}'.format()
'{!r}'.format('a')
'{!s}'.format(none)
'{!a}'.format('é')
'{!x}'.format(1)
'{0!r:>5}'.format('a')
'{:5}|'.format('a')
'{:5}|'.format(1)
'{:<5}|'.format(1)
'{:>5}|'.format('a')
'{:^5}|'.format('a')
'{:^6}|'.format('a')
'{:*^5}'.format('a')
'{:05}'.format(42)
'{:05}'.format(-42)
'{:05}'.format('a')
'{:=5}'.format('a')
'{:=+5}'.format(3)
'{:+}'.format(3)
'{: }'.format(3)
'{:-}'.format(3)
'{:,}'.format(1234567)
'{:_}'.format(1234567)
'{:,.2f}'.format(1234567.891)
'{:_x}'.format(1234567)
'{:012,}'.format(1234567)
'{:.2f}'.format(3.14159)
'{:.2f}'.format(3)
'{:.0f}'.format(2.5)
'{:f}'.format(1)
'{:e}'.format(12345.678)
'{:E}'.format(12345.678)
'{:g}'.format(1e10)
'{:g}'.format(0.1)
'{:n}'.format(1234)
'{:%}'.format(0.256)
'{:.1%}'.format(0.256)
'{:d}'.format(3)
'{:d}'.format(3.5)
'{:d}'.format('a')
'{:x}'.format(255)
'{:#x}'.format(255)
'{:#X}'.format(255)
'{:b}'.format(5)
'{:#b}'.format(5)
'{:08b}'.format(5)
'{:#010b}'.format(5)
'{:o}'.format(8)
'{:c}'.format(97)
'{:s}'.format('a')
'{:s}'.format(1)
'{:.2}'.format('abc')
'{:5.2}|'.format('abc')
'{:.3}'.format(3.14159)
'{:.3}'.format(1e10)
'{:.3}'.format(100.0)
'{}'.format(1e16)
'{}'.format(1.0)
'{:5}|'.format(1.5)
'{:<8}|'.format(1.5)
'{:.2}'.format(3)
'{:}'.format(none)
'{:5}'.format(none)
'{}'.format(none)
'{}'.format(true)
'{:5}|'.format(true)
'{:d}'.format(true)
'{}'.format([1, 'a'])
'{:5}'.format([1])
'{0[0]}'.format([1])
'{0[a]}'.format({'a': 1})
'{0.a}'.format({'a': 1})
'{a[b][0]}'.format(a={'b': [7]})
'{:{}}|'.format('a', 5)
'{:{w}}|'.format('a', w=5)
'{:{w}.{p}f}'.format(3.14159, w=8, p=2)
'{:z}'.format(1)
'{:10000000}'.format(1)
'{:>5}'.format('😀')
'{}'.format(x.missing)
'{:😀>5}'.format('a')
'{:é^5}'.format('a')
'{:x<5}'.format(1)
'{:.3s}'.format('abcdef')
'{:.-3}'.format('a')
'{:%Y}'.format(1)
'{:#}'.format(1.0)
'{:#.0f}'.format(1.0)
'{:g}'.format(1e400)
'{:.2f}'.format(-0.001)
'{:z.2f}'.format(-0.001)
'{:,}'.format('a')
'{:,}'.format(1234.5)
'{:,}'.format(true)
'{:e}'.format(0)
'{:.2e}'.format(99999)
'{0:{1}{2}}|'.format('a', '>', 5)
'{a.b}'.format(a=1)
'{}'.format((1,))
'{}'.format('<'|safe)
'{a}'.format_map({'a': 1})
'{a}'.format_map({})
'a b'.split()|join('-')
'a'.join(['b','c'])
'a'.join('bcd')
'a'.join([1])
'a'.join({'x': 1})
'a'.join(x.missing)
[1]|join
[1, none, 'a', 1.5, [2]]|join('-')
x.l|join(1)
'abc'|join(',')
none|join
5|join
'aXb'.split('X', 1)
'a b c'.split(maxsplit=1)
'a b c'.split(' ', maxsplit=1)
'a b c'.split(none, 1)
'a b c'.rsplit(none, 1)
'a b c'.rsplit(sep=' ', maxsplit=1)
'a\nb'.splitlines(keepends=true)
'a'.center(5, '')
'a'.center(5, 'ab')
'a'.center()
'a'.strip(1)
'abc'.replace('b', 1)
'abc'.replace('b')
'abc'.replace('b', 'x', -1)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
'abc'.startswith('b', 1)
'abc'.startswith('c', 1, 2)
'abc'.startswith(['a'])
'abc'.startswith(('a','b'))
'abc'.endswith(1)
'abc'.find('c', -1)
'abc'.index('z')
'abc'.count('')
'abc'.zfill(5)
'-5'.zfill(4)
'abc'.isidentifier()
'1a'.isidentifier()
'class'.isidentifier()
'é_1'.isidentifier()
'a b'.isidentifier()
'ab'.isascii()
'a\tb'.isprintable()
'ab'.encode()
'ab'.translate({97: 'x', 98: none})
'ab'.translate({'a': 'x'})
'ab'.maketrans('a', 'x')
'ß'.upper()
'ẞ'.lower()
'ΑΣ'.lower()
'ǆ'.title()
'ŉa'.capitalize()
'ﬁx'.capitalize()
'ﬁx'.title()
'İ'.lower()|length
'ß'.casefold()
'ŉ'.upper()
'it\'s they\'re'.title()
'it\'s they\'re'|title
'ab1c'.title()
'a-b_c d'|title
'ǆ'|title
'ﬁx'|capitalize
'ß'|upper
'A'.swapcase()
'ß'.swapcase()
'abc'|upper()
'a'|upper|lower
1|upper
x.l|upper
'a<b>c</b>'|striptags
'&copy; &nbsp;x &#65; &#x41; &notin; &notit; &amp &lt&gt &eacute &bogus; &CounterClockwiseContourIntegral;'|striptags
'<!-- a --> b <c'|striptags
'a <b\n>c'|striptags
'http://example.com'|urlize
'see www.example.com, ok (http://a.b/c).'|urlize
'mail me@example.com now'|urlize
'http://example.com/a/very/long/path'|urlize(20)
'http://example.com'|urlize(nofollow=true)
'http://example.com'|urlize(target='_blank')
'http://example.com'|urlize(rel='x')
'a.com b.org c.net d.xyz'|urlize
'mailto:me@example.com ftp://x.y'|urlize
'ftp://x.y'|urlize(extra_schemes=['ftp:'])
'<http://a.b>'|urlize
'(see http://a.b/(c))'|urlize
'https://a.b/?x=1&y=2'|urlize
'"http://a.b"'|urlize
'a\n http://b.c  d'|urlize
''|urlize
'http://'|urlize
'x@y'|urlize
'x@y.z.'|urlize
[3,1,2]|random
[]|random
x.l|sort(reverse=true)
['b','A',none]|sort
[1,'a']|sort
[1,'a']|max
[1,'a']|min
[none,1]|min
[1,none]|unique|list
[1,1.0,true]|unique|list
['a','A']|unique|list
[[1],[1]]|unique|list
{'b': 1, 'A': 2}|dictsort
{'b': 1, 1: 2}|dictsort
{'a': 1, 'b': 'x'}|dictsort(by='value')
{'a': 1}|dictsort(by='q')
x.m|sort(attribute='a')|map(attribute='b')|list
x.m|sort(attribute='a,b')|map(attribute='b')|list
x.m|groupby('a')
x.m|groupby('a')|list
x.m|groupby('q')|list
x.m|groupby('q', default=1)|list
(x.m|groupby('a')|list)[0].grouper
(x.m|groupby('a')|list)[0].list
(x.m|groupby('a')|first)[0]
x.m|map(attribute='q')|list
x.m|map(attribute='q', default='z')|list
x.m|map('upper')
x.m|map('nosuch')|list
x.m|map|list
x.m|map(attribute=0)|list
x.m|selectattr('a')|list
x.m|selectattr('a', 'equalto', 1)|map(attribute='b')|list
x.m|selectattr('a', '==', 1)|list
x.m|selectattr('a', 'nosuch', 1)|list
x.m|rejectattr('q', 'defined')|list|length
x.m|selectattr('q', 'defined')|list
x.m|selectattr('q.r', 'defined')|list
x.m|select('mapping')|list|length
[1,2,3,4]|select('even')|list
[0,1]|select|list
[0,1]|reject|list
x.l|batch(2)|list
x.l|batch(2, 0)|list
x.l|batch(0)|list
x.l|slice(2)|list
x.l|slice(0)|list
x.l|batch(2)
x.l|map('string')
x.l|reverse
x.l|list|reverse|first
'abc'|reverse
'abc'|list
{'a':1}|list
none|list
5|list
missing|list
missing|length
none|length
5|length
missing|first
[]|first
[]|last
''|first
none|first
missing|upper
missing|string
missing|int
missing|float
missing|default(1)
missing.x|default(1)
none|default(1)
''|default(1, true)
''|default(1, boolean=true)
''|default
missing|d
missing|sort
missing|sum
missing|max
missing|join
missing|tojson
missing|list|length
missing|map('upper')|list
missing is defined
missing is none
missing is string
missing is iterable
missing is sequence
missing + 1
missing ~ 'a'
missing * 2
-missing
missing and 1
missing or 1
not missing
missing == 1
missing < 1
missing[0]
missing[0:1]
missing.a.b is defined
1|abs
-1.5|abs
'a'|abs
none|abs
true|abs
'1'|int + 1
'1.5'|int
'a'|int
'a'|int(5)
'0x1f'|int(base=16)
'0b11'|int(base=2)
'ff'|int(base=16)
' 5 '|int
'1_000'|int
'１２'|int
'1e3'|int
'inf'|int
'nan'|int
[]|int
none|int
1e20|int
'1' * 30|int
'99999999999999999999'|int
-1.9|int
true|int
'1.5'|float
'1e400'|float
'inf'|float
'-inf'|float
'nan'|float
'infinity'|float
'1_0.5'|float
'a'|float
none|float
[]|float
1|float
1.5|round
2.5|round
-0.5|round
0.5|round|int
2.567|round(2)
2.567|round(1, 'floor')
2.561|round(2, 'ceil')
5|round(1)
15|round(-1)
25|round(-1)
25|round(-1, 'ceil')
'a'|round
none|round
1.5|round(method='foo')
5|filesizeformat
[1,2]|sum
['a','b']|sum
[[1],[2]]|sum
[]|sum
[1.5, 2]|sum
x.m|sum(attribute='a')
x.m|sum('a')
x.m|sum('q')
5|string
1.0|string
'a'|trim
' a '|trim
'xxaxx'|trim('x')
5|trim
'a b'|wordcount
5|wordcount
'abc def'|truncate(5)
5|truncate
'a\nb'|indent
5|indent
'a b c'|wordwrap(2)
5|center(5)
'a'|replace('a', none)
none|replace('N', 'x')
5|replace(5, 6)
'a'|replace(1)
{'a': 1}|xmlattr
{'a b': 1}|xmlattr
{'a': 1, 'b': none}|xmlattr
5|xmlattr
'a'|xmlattr
'<'|e|e
'<'|escape|safe
5|e
none|e
[1]|e
'a'|attr('upper')
x|attr('a')
x|attr('items')
{'a': 1, 'b': [1, 2]}|pprint
'a'|pprint
x|pprint
5|pprint
'a'|safe|pprint
x|tojson
x|tojson(2)
x|tojson(indent=2, sort_keys=true)
x|tojson(none, 2)
x|tojson(true)
x|tojson(separators=[',', ':'])
x|tojson(separators=(',', ':'))
x|tojson(separators=',:')
x|tojson(separators=(','))
x|tojson(foo=1)
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1,): 2}|tojson
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{'b': 1, 1: 2}|tojson(sort_keys=true)
(1, 2)|tojson
[1.0, 1e100, -0.0, 1e-7, 123456789012345678901234567890]|tojson
[1e400, -1e400]|tojson
'\x7f\x80\u2028'|tojson
'😀é'|tojson(ensure_ascii=true)
x.f|tojson
range|tojson
missing|tojson
[missing]|tojson
namespace(a=1)|tojson
'a'|tojson(indent='--')
[1]|tojson(indent='--')
[1]|tojson(indent=-1)
[1]|tojson(indent=true)
[1]|tojson(indent=1.5)
[[], {}, [[]]]|tojson(indent=1)
'a'|urlencode
'a/b c&d=é'|urlencode
{'a': 1}|urlencode
[['a', 1]]|urlencode
[1]|urlencode
none|urlencode
1.5|urlencode
'a'|nosuch
'a' is nosuch
nosuch('a')
x.l|map('nosuch')|list
1|upper|nosuch
raise_exception('no')
raise_exception()
raise_exception(1)
strftime_now('%%')
strftime_now('a')
strftime_now()
[[1, 2], [3]]|map('first')|list
[[1, 2], [3]]|map('join', '-')|list
[1, 2]|map('format', 1)|list
['%s']|map('format', 1)|list
[{'a': {'b': 1}}]|map(attribute='a.b')|list
[[1]]|map(attribute='0')|list
[[1]]|map(attribute=0)|list
[(1, 'a')]|map(attribute=1)|list
[3, 1]|sort|first
[{'a': 2}, {'a': 1}]|min(attribute='a')
'b' > 'a' and 'c'
[1, 2, 3] | select('>', 1) | list
[1, 2, 3] | select('gt', 1) | list
[1,2]|select('in', (1,))|list
['a', 1]|select('string')|list
x.l|map('pprint')|list
'a\u0301'|length
'a' == 'a'|upper
'a'.upper() == 'A'
self
self.x
loop
caller
x.a is defined and x.a is number
x is defined
x.a.b is defined
x['a']['b'] is defined
x.l is iterable
'a' is iterable
1 is iterable
1 is sequence
'a' is sequence
{} is sequence
{} is mapping
[] is mapping
1 is number
1.5 is number
true is number
'1' is number
1.5 is float
1 is float
1.0 is integer
true is integer
true is boolean
1 is boolean
true is true
1 is true
false is false
0 is false
'a' is lower
'A' is upper
'1' is lower
1 is lower
1 is odd
'a' is odd
2.0 is even
none is odd
3 is divisibleby 0
3 is divisibleby(1.5)
1 is in [1]
1 is in(1)
1 is eq
1 is nosuch(2)
"""

# One a line.
TEMPLATES = r"""
{% print 1 %}|
a {% print 1, 'b' %}
  {% print x.a %}  
a{%- print 1 -%} b
{% print (1,2) %}
{% print %}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(a=3) }}
{% macro m(a, b=a ~ 'x', c=b ~ 'y') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}
{% set a = 9 %}{% macro m(a=a) %}{{ a }}{% endmacro %}{{ m() }}
{% macro m(a=1) %}{{ a }}{% endmacro %}{{ m(none) }}{{ m(missing) }}
{% macro m(a, b) %}{{ a }}|{{ b }}{% endmacro %}{{ m() }}{{ m(1) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}
{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}{{ m.caller }}
{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{% if caller is defined %}y{% else %}n{% endif %}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}
{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}{{ m() }}
{% macro m(a, *b) %}{% endmacro %}
{% macro f(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(*[1], **{'b': 5, 'c': 6}) }}{{ f(1, b=2, *[]) }}
{% macro m() %}a{% endmacro %}{{ m() | upper }}{{ m() ~ '<' }}{{ m()|length }}
{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ m(1) }}{{ x.a }}
{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}
{% if true %}{% macro q() %}q{% endmacro %}{% endif %}{{ q() }}
{{ m2() }}{% macro m2() %}x{% endmacro %}
{% set m = 1 %}{% macro k() %}{{ m }}{% endmacro %}{% set m = 2 %}{{ k() }}
{% for i in xs %}{% macro z() %}{{ i }}{% endmacro %}{{ z() }}{% endfor %}
{% macro z(i) %}{{ loop }}{% endmacro %}{% for i in [1] %}{{ z(i) }}{% endfor %}
{% for i in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}
{% for i in xs %}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}
{% for i in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}
{% for i in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for i in xs %}{{ loop }}{% endfor %}
{% for i in xs if i > 1 %}{{ loop.index }}{{ loop.length }}{% endfor %}
{% for i in xs if i > 5 %}{{ i }}{% else %}none{% endfor %}
{% for i in x.missing %}{{ i }}{% else %}e{% endfor %}
{% for i in none %}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for k, v in x.items() %}{{ k }}{{ v }}{% endfor %}
{% for k in x %}{{ k }}{% endfor %}
{% for k, v in x %}{{ k }}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for c in 'abc' %}{{ c }}{{ loop.length }}{% endfor %}
{% for i in xs recursive %}{{ i }}{% if i is iterable %}{{ loop(i) }}{% endif %}{% endfor %}
{% for i in [[1, [2]], 3] recursive %}[{% if i is iterable %}{{ loop(i) }}{% else %}{{ i }}d{{ loop.depth }}{% endif %}]{% endfor %}
{% for i in xs %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in xs %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% for i in xs %}{% for j in xs %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }}{% endfor %}{% endfor %}
{% break %}
{% continue %}
{% for i in xs %}{% else %}{% break %}{% endfor %}
{% for i in xs %}{{ i }}{% endfor %}{{ i }}
{% for i in range(3) %}{{ i }}{% endfor %}
{% for i in xs|reverse %}{{ i }}{% endfor %}
{% for i in xs[::-1] %}{{ i }}{% endfor %}
{% for i in xs if i is odd %}{{ i }}{% endfor %}
{% for i in (1, 2) %}{{ i }}{% endfor %}
{% for i in 1, 2 %}{{ i }}{% endfor %}
{% for i in xs %}{% set y = i %}{% endfor %}{{ y }}
{% set y = 0 %}{% for i in xs %}{% set y = y + i %}{{ y }}{% endfor %}{{ y }}
{% set ns = namespace(y=0) %}{% for i in xs %}{% set ns.y = ns.y + i %}{% endfor %}{{ ns.y }}
{% set ns.z = 1 %}
{% set x.z = 1 %}
{% set ns = namespace() %}{% set ns.a %}text{% endset %}{{ ns.a }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = [1] %}
{% set (a, b) = (1, 2) %}{{ a }}
{% set a = b = 1 %}
{% set a %}b {{ x.a }}{% endset %}{{ a }}
{% set a | upper %}b{% endset %}{{ a }}
{% set a | replace('b', 'c') | upper %}ab{% endset %}{{ a }}
{% set a = 1 if false %}{{ a }}{{ a is defined }}
{% if x.a == 2 %}a{% elif true %}b{% else %}c{% endif %}
{% if false %}a{% elif true %}b{% else %}c{% endif %}
{% if missing %}a{% else %}b{% endif %}
{% if missing.x %}a{% endif %}
{% if x.missing.y is defined %}a{% endif %}
{% if not missing %}a{% endif %}
{% if 1 %}{% set q = 1 %}{% endif %}{{ q }}
{% else %}
{% endif %}
{% if 1 %}
{% if 1 %}a{% endfor %}
{% elif 1 %}
{% if %}a{% endif %}
{% for %}{% endfor %}
{% nosuch %}
{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}
{% with a = 1 %}{{ a }}{% endwith %}{{ a }}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}
{% with a = 1, b = a %}{{ b }}{% endwith %}
{% with a, b = 1, 2 %}{{ a }}{% endwith %}
{% filter upper %}abc{{ x.k }}{% endfilter %}
{% filter replace('a', 'b') | upper %}abc{% endfilter %}
{% filter indent(2) %}a
b{% endfilter %}
{% block a %}x{{ x.a }}{% endblock %}
{% block a %}x{% endblock a %}
{% block a %}x{% endblock %}{{ self.a() }}
{% block a %}1{% endblock %}{% block a %}2{% endblock %}
{% set q = 1 %}{% block a %}{{ q }}{% endblock %}
{% for i in xs %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}
{% for i in xs %}{% block a %}{{ i }}{% endblock %}{% endfor %}
{% block a required %}{% endblock %}
{{ super() }}
{% extends 'x' %}
{% include 'x' %}
{% include 'x' ignore missing %}a
{% import 'x' as y %}
{% from 'x' import y %}
{% autoescape true %}{{ '<' }}{% endautoescape %}
{% autoescape false %}{{ '<' }}{% endautoescape %}
{% do x.l %}
{% do x.l.append(1) %}
{% trans %}a{% endtrans %}
{% debug %}
{% raw %}{{ x }}{% if %}{% endraw %}
{%- raw -%} {{ x }} {%- endraw -%} b
{% raw %}
 a
{% endraw %}
b
a {# c #} b
a {#- c -#} b
a
 {# c #}
b
{# {{ x }} {% if %} #}a
{# unclosed
{{ unclosed
{% unclosed
{{ 1 }
{{ }}
{{ 1 2 }}
{{ (1 }}
{{ [1 }}
{{ {1: } }}
{{ 'a }}
{{ 1 + }}
{{ + }}
{{ 1 | }}
{{ 1 is }}
{{ x. }}
{{ x[ }}
{{ if }}
{{ in }}
{{ not }}
{{ and }}
{{ for }}
{{ is }}
{{ set }}
{% set if = 1 %}{{ if }}
{% set loop = 1 %}{{ loop }}
{% set self = 1 %}{{ self }}
{% set true = 1 %}
{% set none = 1 %}
{% set caller = 1 %}{{ caller }}
{% set _a = 1 %}{{ _a }}
{% set é = 1 %}{{ é }}
{{ x._a }}
{{ x.__class__ }}
{{ ''.__class__ }}
{{ 'a'.format.__globals__ }}
{{ x['__class__'] }}
{{- 'a' -}} b
a {{- 'b' -}} c
a {{+ 1 +}} b
a {{ 1 +}}
{{ 1 -}}
 
b
  {% if 1 %}  
  a
  {% endif %}  
b
  {%+ if 1 %}
a
{%+ endif +%}
b
{%- if 1 %}
a
{%- endif %}
b
x  {%- if 1 -%}  a  {%- endif -%}  y
{% if 1 %}
{% if 1 %}
a
{% endif %}
{% endif %}
	{% if 1 %}a{% endif %}
a {% if 1 %}b{% endif %}
 a
{% for i in xs %}
  {{ i }}
{% endfor %}
{% for i in xs -%}
  {{ i }}
{%- endfor %}
{% for i in xs %}{{ i }},
{% endfor %}.
a
{{ 1 }}
b
{{ 1 }}

{{ 2 }}
{% set a = 1 %}
b
{% set a = 1 -%}

b
{% macro m() %}
 a
{% endmacro %}
[{{ m() }}]
{% call m() %}{% endcall %}
{% generation %}a{% endgeneration %}b
{% generation %}
a
{% endgeneration %}
b
  {%- generation -%}  a  {%- endgeneration -%}  b
{% for m in ms %}{% generation %}{% set q = m.role %}{{ m.content }}{% endgeneration %}{{ q }}{% endfor %}
{% generation %}{% for m in ms %}{{ loop.index }}{% endfor %}{% endgeneration %}
{% set generation = 1 %}{{ generation }}
{{ x.a
}}
{{ x
.a }}
{{ x . a }}
{{ x .l [0] }}
{{ 'a' if x.a == 2 else 'b' if x.a == 3 else 'c' }}
{{ ('a' if x.a == 2) ~ 'z' }}
{{ [1, 2][0] }}
{{ {'a': 1}.a }}
{{ {'a': 1}['a'] }}
{{ (1, 2)[0] }}
{{ 'abc'[0] }}
{{ 'abc'|first }}
{{ "a\"b" }}
{{ 'a' ~ "b" }}
{{ '{{' }}
{{ '%}' }}
{{ "}}" }}
{% set a = '%}' %}{{ a }}
{% set a = "{#" %}{{ a }}
{{ '{% raw %}' }}
{{ [x.a, x['b'], x.l[0]] }}
{{ x.l | map('string') | join(', ') | upper }}
{{ x.l | sort | reverse | list }}
{{ ms | map(attribute='role') | list }}
{{ ms | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}
{{ ms | groupby('role') | map('first') | list }}
{{ ms[-1].role }}
{{ ms[0]['content'] }}
{{ ms[1:] }}
{{ (ms | last).content }}
{{ ms | length - 1 }}
{{ ms | tojson }}
{{ x | items | map('first') | join }}
{{ x.items() | list | length }}
{{ loop is defined }}
{{ 1 if missing is not defined else 2 }}
{{ missing is not none }}
{{ x.get('a', {}).get('b') }}
{% if x.a is string %}a{% elif x.a is mapping %}b{% elif x.a is iterable %}c{% else %}d{% endif %}
{% if x.a in [1, 2] and x.b not in (3,) %}a{% endif %}
{% if 'k' in x and x['k'] %}a{% endif %}
{% if ms and ms[0].role == 'user' %}a{% endif %}
{%if 1%}a{%endif%}
{{1}}{{-1}}{{- 1}}
{%-if 1-%}a{%-endif-%}
{% if 1 %}a{%else%}b{%endif%}
{{ x.a }}{# c #}{{ x.b }}
# for i in xs
## comment
{{ '\n' }}
{{ 'a
b' }}
{% set s = namespace(a=[]) %}{% set s.a = s.a + [1] %}{{ s.a }}
{% set s = namespace(a=1) %}{% set s['a'] = 2 %}{{ s.a }}
{% set a = [] %}{% set _ = a.append(1) %}{{ a }}
{% set a = {} %}{% set _ = a.update({'b': 1}) %}{{ a }}
{% set a = [1] %}{{ a.pop() }}{{ a }}
{{ joiner }}
{% set j = joiner(', ') %}{{ j() }}{{ j() }}{{ j() }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}
{{ lipsum(1) is string }}
{{ dict(a=1, **{'b': 2}) }}
{{ x.l.index(1) }}{{ x.l.count(1) }}{{ x.l.copy() }}
{{ raise_exception('bad ' ~ x.a) }}
{% if false %}{{ raise_exception('x') }}{% endif %}ok
{% set a = raise_exception %}{{ a('z') }}
{{ strftime_now }}
{{ x is mapping }}{{ ms is sequence }}{{ 'a' is string }}{{ ms is iterable }}
{{ namespace is defined }}{{ range is defined }}{{ nope is defined }}
{% set range = 1 %}{{ range }}
{% for x in ms %}{{ x.role }}{% endfor %}{{ x.a }}
{% for m in ms %}{% if loop.first %}{{ m.role }}{% elif loop.last %}{{ m.content }}{% endif %}{% endfor %}
{% for m in ms %}{% set loop_messages = ms[loop.index0:] %}{{ loop_messages | length }}{% endfor %}
{% for m in ms %}{% set outer = loop %}{% for i in xs %}{{ outer.index }}{{ i }}{% endfor %}{% endfor %}
{% for m in ms %}{{ m.role if m.role == 'user' }}{% endfor %}
{% for k, v in x | dictsort %}{{ k }}{% endfor %}
{% for a in ms | batch(1) %}{{ a | length }}{% endfor %}
{% for g, l in ms | groupby('role') %}{{ g }}{{ l | length }}{% endfor %}
{% for g in ms | groupby('role') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}
"""

VALUES = r"""
1
0
-2
3.5
-0.5
1e20
10**20
true
false
none
missing
''
'a'
'ab c'
'AbC dE'
'10'
'-3.7'
'éß İ'
'a<b&"c"'
('<b>'|safe)
[]
[1,2,3]
['b','A','c']
[1,'a',none]
[[1,2],[3]]
()
(1,2)
(1,)
{}
{'b':1,'a':2}
range(3)
range(0,10,3)
{'a':1}.items()
{'a':1}.keys()
{'a':1}.values()
dict(a=1)
namespace(x=1)
x
x.m
"""

FILTERS = r"""
abs
batch(2)
batch(2,'z')
capitalize
center
center(9)
default('q')
d('q',true)
dictsort
dictsort(true)
dictsort(by='value')
dictsort(false,'key',true)
escape
e
filesizeformat
filesizeformat(true)
first
float
float(1.5)
forceescape
format
format(1)
groupby('n')
indent
indent(2)
indent(2,true)
indent('>')
int
int(7)
int(0,16)
items
join
join(',')
join(',','n')
last
length
count
list
lower
map('upper')
map(attribute='n')
map('string')
max
max(attribute='v')
min
min(attribute='v')
pprint
reject('odd')
reject
rejectattr('n')
rejectattr('v','gt',1)
replace('a','x')
replace('a','x',1)
reverse
round
round(1)
round(0,'floor')
round(-1)
safe
select('odd')
select
selectattr('n')
selectattr('v','gt',1)
slice(2)
slice(2,'z')
sort
sort(true)
sort(attribute='v')
sort(reverse=true,case_sensitive=true)
string
striptags
sum
sum(attribute='v')
sum(start=10)
title
tojson
tojson(indent=2)
tojson(ensure_ascii=true)
trim
trim('a')
truncate(3)
truncate(3,true,'')
unique
unique(attribute='n')
upper
urlencode
wordcount
wordwrap(2)
xmlattr
nosuch
"""

METHODS = r"""
capitalize()
casefold()
center(5)
center(6,'*')
count('a')
encode()
endswith('c')
endswith(('b','c')
)
expandtabs()
find('b')
format()
format(1)
format_map({})
index('a')
isalnum()
isalpha()
isascii()
isdecimal()
isdigit()
isidentifier()
islower()
isnumeric()
isprintable()
isspace()
istitle()
isupper()
join(['x','y'])
join([1])
ljust(5)
ljust(5,'-')
lower()
lstrip()
lstrip('a')
maketrans('a','b')
partition('b')
removeprefix('a')
removesuffix('c')
replace('a','b')
replace('a','b',1)
rfind('b')
rindex('a')
rjust(6)
rpartition(' ')
rsplit()
rsplit(' ',1)
rstrip('c')
split()
split('b')
split(' ',1)
split(maxsplit=1)
split(sep='b')
splitlines()
splitlines(true)
splitlines(keepends=true)
startswith('a')
startswith('b',1)
strip()
swapcase()
title()
translate({97:'x'})
upper()
zfill(5)
__len__()
append(1)
extend([1])
insert(0,1)
pop()
pop(0)
remove(1)
sort()
reverse()
clear()
copy()
index(1)
count(1)
get('a')
get('zz')
get('zz',5)
items()
keys()
values()
update({})
setdefault('a')
popitem()
fromkeys([1])
bit_length()
is_integer()
hex()
as_integer_ratio()
start
stop
step
nosuch
nosuch()
real
imag
numerator
"""

TESTS = r"""
defined
undefined
none
boolean
true
false
integer
float
number
string
mapping
sequence
iterable
callable
sameas(none)
lower
upper
odd
even
divisibleby(2)
eq(1)
ne 1
lt 2
le(2)
gt 2
ge(2)
in [1,'a']
escaped
"""

SUBSCRIPTS = ["0", "-1", "5", "'a'", "none", "1.0", "true", "1:", "::-1", ":-1", "0:2", "missing"]
OPERATORS = "+ - * / // % ~ == != < <= > >= in and or".split() + ["not in"]
FORMATS = ["'%s' % (V,)", "'%r' % (V,)", "'{}'.format(V)", "'{!r}'.format(V)", "'{:>8}'.format(V)"]

# Beginnings or parts of what differs, by the reason.
DIFFERENCES = {
    "the same prompt each time, and no HTML": ["|urlize", "|random", "lipsum", "autoescape true"],
    "Python's own objects are not rebuilt: bytes, sets, methods of numbers, names of types": [
        ".encode(",
        "maketrans",
        "fromkeys",
        "hex()",
        "as_integer_ratio",
        "real",
        "imag",
        "numerator",
        "bit_length",
        ".items|string",
        "{{ joiner }}",
        "{{ self",
        "{{ loop }}",
        "x.f is callable",
        "x.f()",
        "%c' % -1",
        " - ({",
        " - (range",
        ".items()) - (",
        ".keys()) - (",
        "}.items()) <",
        "}.items()) >",
        "}.keys()) <",
        "}.keys()) >",
        "__globals__",
        "m.catch_kwargs",
        "strftime_now }}",
        "|attr(",
    ],
    "a namespace is one of minijinja's, which is a map": ["namespace("],
    "Jinja2 computes constants with more forgiveness than variables": [
        "[1:]",
        "[::-1]",
        "[:-1]",
        "[0:2]",
        "['n':]",
        "[1.5:]",
        "1e400)",
        "1e400 ",
        "[true]",
    ],
    "more is read than Jinja2 reads": [
        "{{ 1. }}",
        "1__0",
        "{{ 01 }}",
        "{{+",
        "+}}",
        "{% raw +%}",
        "{%- raw +%}",
        "{%+ raw +%}",
        "'%5%'",
        "{:z}'",
        "{% raw %}",
        "break %}{% endfor %}",
        "\\ud83d",
        "ignore missing",
    ],
    "keys of a map are not compared by value, nor must they be hashable": [
        "true: ",
        "{[1]: 2}",
        "{{}: 2}",
        ") in ({",
        ") not in ({",
        ") in (dict",
        ") not in (dict",
        ") in (x)",
        ") not in (x)",
        "{1: 'a', 1.0",
    ],
    "what map and select give is a list, which prints and can be JSON": ["|map('string')|tojson"],
    "a width that fills memory is refused": ["10000000"],
    "characters by their names are refused": ["\\N{"],
    "pprint writes one line": ["x|pprint", "(x)|pprint", "(x.m)|pprint"],
    "what is given as undefined is not given": ["m(missing)"],
    "scopes of minijinja": ["with a = 1, b = a", "{% block a %}{{ i }}", "{% block a required"],
    "names of the engine": ["set loop = 1", "set self = 1"],
    "cyclers are gone through, not set back": ["cycler('a','b').current", "c.reset()"],
    "an attribute that only some values have": [
        "max(attribute='v')",
        "min(attribute='v')",
        "join(',','n')",
        "batch(0)",
        "|safe)).join([1])",
        "xmlattr",
        "int(0,16)",
    ],
}


def differs(template):
    return any(part in template for parts in DIFFERENCES.values() for part in parts)


def _lines(text):
    return [line for line in text.strip("\n").split("\n") if line]


def _combined():
    values = _lines(VALUES)
    for value in values:
        yield f"({value})"
        yield from (f"({value})|{one}" for one in _lines(FILTERS))
        yield from (f"({value}).{one}" for one in _lines(METHODS))
        yield from (f"({value}) is {one}" for one in _lines(TESTS))
        yield from (f"({value})[{one}]" for one in SUBSCRIPTS)
        yield from (one.replace("V", value) for one in FORMATS)
    for left, operator, right in itertools.product(values, OPERATORS, values):
        if not (operator == "*" and "20" in left + right):
            yield f"({left}) {operator} ({right})"


def _whitespace():
    tags = [("if 1", "endif"), ("for i in [1]", "endfor"), ("raw", "endraw"), ("with", "endwith")]
    tags += [("generation", "endgeneration"), ("filter upper", "endfilter"), ("set q = 1", None)]
    tags += [("print 1", None), ("macro m()", "endmacro")]
    texts = [("a \n  ", "  \n b ", "\n c"), ("\n\n", "\n\n", "\n\n"), ("\t", "\t\n", "\t\n")]
    for a, b in itertools.product(["", "-", "+"], repeat=2):
        for (tag, end), (pre, mid, post) in itertools.product(tags, texts):
            closing = f"{mid}{{%{b} {end} {a}%}}" if end else ""
            yield f"{pre}{{%{a} {tag} {b}%}}{closing}{post}"
        for pre, mid, _ in texts:
            yield f"{pre}{{{{{a} 1 {b}}}}}{mid}"
            yield f"{pre}{{#{a} 1 {b}#}}{mid}"


def templates(count=3000, seed=19):
    """Every hand-written template, and `count` of the combined ones."""
    combined = random.Random(seed).sample(sorted(set(_combined())), count)
    expressions = [*_lines(EXPRESSIONS), *combined]
    every = ["{{ " + one + " }}" for one in expressions]
    every += [*_lines(TEMPLATES), *_whitespace()]
    return [one for one in dict.fromkeys(every) if not differs(one)]
